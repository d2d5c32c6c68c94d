// A line without axes, for a row of a table.

const WIDTH = 112;
const HEIGHT = 24;
const EDGE = 2;

/** More points than that are but noise so small. */
const MOST_POINTS = 60;

/** Several steps in one, where there are many. What still runs is left out then: it is less than a whole one. */
function thinned({ values, running }: { values: (number | null)[]; running: number }): { values: (number | null)[]; running: number } {
  if (values.length <= MOST_POINTS) return { values, running };
  const together = Math.ceil(running / MOST_POINTS);
  const count = Math.floor(running / together);
  const first = running - count * together;
  const sum = (from: number) => values.slice(from, from + together).reduce<number>((sum, value) => sum + (value ?? 0), 0);
  return { values: Array.from({ length: count }, (_, n) => sum(first + n * together)), running: count };
}

/** The values up to the running step, and from there on dashed. */
export function Spark({ label, ...all }: { values: (number | null)[]; running: number; label: string }) {
  const { values, running } = thinned(all);
  const top = Math.max(1, ...values.map((value) => value ?? 0));
  const apart = values.length > 1 ? WIDTH / (values.length - 1) : 0;
  const point = (value: number | null, at: number) =>
    `${(at * apart).toFixed(1)},${(HEIGHT - EDGE - ((value ?? 0) / top) * (HEIGHT - 2 * EDGE)).toFixed(1)}`;
  const points = values.map(point);
  const ended = points.slice(0, running);
  const rest = points.slice(Math.max(0, running - 1));
  const line = { fill: "none", stroke: "currentColor", "stroke-width": 1.5, "vector-effect": "non-scaling-stroke" } as const;
  return (
    <svg class="spark" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={label}>
      {ended.length > 1 && <polyline points={ended.join(" ")} {...line} />}
      {rest.length > 1 && <polyline points={rest.join(" ")} {...line} stroke-dasharray="2 2" opacity="0.7" />}
    </svg>
  );
}
