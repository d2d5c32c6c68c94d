// How fast each stage went in the last minutes, as a small line.

import type { Flow } from "../gen/tidemark/v1/services_pb";

/** Two minutes at the usual pace. */
const KEPT = 120;
const WIDTH = 120;
const HEIGHT = 18;

/** Rates by stage, the newest ones, from one report to the next. */
export class Rates {
  private readonly byStage = new Map<string, number[]>();
  private newest = 0n;

  /** Takes a report in; the same one once. */
  take(flow: Flow): void {
    if (flow.timeMs <= this.newest) return;
    this.newest = flow.timeMs;
    for (const { name, perSecond } of flow.stages) {
      const kept = this.byStage.get(name) ?? [];
      kept.push(perSecond);
      if (kept.length > KEPT) kept.shift();
      this.byStage.set(name, kept);
    }
  }

  of(stage: string): number[] {
    return this.byStage.get(stage) ?? [];
  }
}

/** A line from the oldest to the newest; as high as the fastest. */
export function RateLine({ rates }: { rates: number[] }) {
  const most = Math.max(...rates, 1e-9);
  const points = rates.map((rate, n) => {
    const x = (n / Math.max(1, rates.length - 1)) * WIDTH;
    return `${x.toFixed(1)},${(HEIGHT - 1 - (rate / most) * (HEIGHT - 2)).toFixed(1)}`;
  });
  return (
    <svg class="flow-rates" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
      <polyline points={points.join(" ")} vector-effect="non-scaling-stroke" />
    </svg>
  );
}
