// A line without axes, for a row of a table.

const WIDTH = 112;
const HEIGHT = 24;
const EDGE = 2;

/** The values up to the running step, and from there on dashed. */
export function Spark({ values, running, label }: { values: (number | null)[]; running: number; label: string }) {
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
