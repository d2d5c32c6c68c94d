// Lines over time.
//
// Owns: how lines look: what has ended is solid; what still runs is dashed and ends in a hollow point; where there is no number there
// is a gap. Does not own: which numbers.

import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { clock, short, stepLabel } from "./number";

/** Between two lines of the grid: all that is counted here is whole. */
const WHOLE_STEPS = Array.from({ length: 13 }, (_, power) => [1, 2, 5].map((step) => step * 10 ** power)).flat();

/** With more steps lines are thinner. */
const DENSE = 100;

/** One line. */
export interface Line {
  label: string;
  /** A colour variable of the theme. */
  colour: string;
  values: (number | null)[];
  /** Filled down to zero. */
  filled?: boolean;
  /** What is compared with: thinner. */
  faint?: boolean;
}

interface Props {
  /** Says in words what is drawn. */
  label: string;
  times: number[];
  stepSeconds: number;
  /** Position of the first step that still runs. */
  running: number;
  lines: Line[];
  height: number;
  format: (value: number | null) => string;
  axis?: (value: number) => string;
  /** Where the axis ends while there is nothing. */
  emptyTop?: number;
  /** Told where the pointer is, by the position of the step: then the caller says what the lines are, and their numbers. */
  onPoint?: (at: number | null) => void;
}

export function Chart(props: Props) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | undefined>(undefined);
  const [at, setAt] = useState<number | null>(null);
  const theme = useThemeName();
  const { lines, height, stepSeconds } = props;
  const look = [theme, height, stepSeconds, ...lines.map(({ label, colour }) => label + colour)].join();
  // Formats are the same for the same look.
  useEffect(() => {
    const element = place.current;
    if (!element) return;
    const drawn = new uPlot(options(props, element.clientWidth, props.onPoint ?? setAt), dataOf(props), element);
    plot.current = drawn;
    const resized = new ResizeObserver(() => {
      if (element.clientWidth > 0) drawn.setSize({ width: element.clientWidth, height });
    });
    resized.observe(element);
    return () => {
      resized.disconnect();
      drawn.destroy();
      plot.current = undefined;
    };
  }, [look]);
  const drawnOf = useRef<string>("");
  useEffect(() => {
    const content = JSON.stringify([look, props.times[0], props.running, lines.map(({ values }) => values)]);
    if (content === drawnOf.current) return;
    drawnOf.current = content;
    plot.current?.setData(dataOf(props));
  });
  return (
    <figure class="chart">
      {!props.onPoint && <Legend {...props} at={at} />}
      <div ref={place} class="chart-plot" role="img" aria-label={props.label} style={{ height: `${height}px` }} />
    </figure>
  );
}

/** The theme's name: its colours are painted, not styled. */
function useThemeName(): string | undefined {
  const [theme, setTheme] = useState(document.documentElement.dataset["theme"]);
  useEffect(() => {
    const watched = new MutationObserver(() => setTheme(document.documentElement.dataset["theme"]));
    watched.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return () => watched.disconnect();
  }, []);
  return theme;
}

/** What the lines are, and their numbers where the pointer is. */
function Legend({ lines, times, stepSeconds, running, format, at }: Props & { at: number | null }) {
  const time = at === null ? undefined : times[at];
  return (
    <figcaption class="chart-legend">
      {lines.map(({ label, colour, values, faint }) => (
        <span key={label} class="legend-entry">
          <span class={faint ? "legend-line faint" : "legend-line"} style={{ background: `var(${colour})` }} aria-hidden="true" />
          {label}
          {time !== undefined && at !== null && <b>{format(values[at] ?? null)}</b>}
        </span>
      ))}
      {time !== undefined && at !== null && (
        <span class="legend-time">
          {stepLabel(time, stepSeconds)}
          {at >= running ? " (still running)" : ""}
        </span>
      )}
    </figcaption>
  );
}

/** Each line twice: what has ended, and from its last point on what still runs. */
function dataOf({ times, lines, running }: Props): uPlot.AlignedData {
  const columns = lines.flatMap(({ values }) => [
    values.map((value, at) => (at < running ? value : null)),
    values.map((value, at) => (at >= running - 1 ? value : null)),
  ]);
  return [times, ...columns];
}

function options({ times, lines, height, stepSeconds, axis = short, emptyTop = 5 }: Props, width: number, onPoint: (at: number | null) => void): uPlot.Options {
  const style = getComputedStyle(document.documentElement);
  const isDense = times.length > DENSE;
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const grid = { stroke: colour("--line"), width: 1 };
  const font = `11px ${style.getPropertyValue("--font").trim()}`;
  const axes = { stroke: colour("--muted"), font, ticks: { show: false } };
  const timeAxis: uPlot.Axis = { ...axes, grid: { show: false }, size: 28, gap: 8, space: 72 };
  if (stepSeconds < 86_400) timeAxis.values = (_, splits) => splits.map((time) => timeLabel(time, (splits[1] ?? 0) - (splits[0] ?? 0)));
  else timeAxis.values = [[86_400, "{D} {MMM}", null, null, null, null, null, null, 1]];
  return {
    // Days are the cluster's; other steps are told by the reader's clock.
    tzDate: (time) => (stepSeconds < 86_400 ? new Date(time * 1_000) : uPlot.tzDate(new Date(time * 1_000), "UTC")),
    width: Math.max(width, 50),
    height,
    padding: [8, 22, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
    scales: { y: { range: (_, __, max) => [0, niceTop(max, emptyTop)] } },
    axes: [timeAxis, { ...axes, grid, size: 44, gap: 4, space: 36, incrs: WHOLE_STEPS, values: (_, splits) => splits.map((value) => axis(value)) }],
    series: [{}, ...lines.flatMap((line) => strokes(line, colour(line.colour), colour("--panel"), isDense))],
    hooks: { setCursor: [(plot) => onPoint(plot.cursor.idx ?? null)] },
  };
}

function strokes({ label, filled, faint }: Line, stroke: string, ground: string, isDense: boolean): uPlot.Series[] {
  const width = faint ? 1.25 : isDense ? 1.5 : 2;
  const ended: uPlot.Series = { label, stroke, width, points: { show: false, size: 4, fill: stroke, filter: isolated } };
  if (filled) ended.fill = `color-mix(in srgb, ${stroke} 12%, transparent)`;
  const size = faint ? 5 : 8;
  const running: uPlot.Series = {
    label: `${label}, running`,
    stroke,
    width,
    dash: [4, 4],
    points: { show: false, size, width: 1.5, fill: ground, stroke, filter: lastOnly },
  };
  return [ended, running];
}

/** A number between two gaps has no line: it gets a point. */
const isolated: uPlot.Series.Points.Filter = (plot, series) => {
  const values = plot.data[series] ?? [];
  const is = (at: number) => values[at] !== null && values[at] !== undefined;
  const alone = [...values.keys()].filter((at) => is(at) && !is(at - 1) && !is(at + 1));
  return alone.length > 0 ? alone : null;
};

/** The hollow point stands where a running line has got to. */
const lastOnly: uPlot.Series.Points.Filter = (plot, series) => {
  const values = plot.data[series] ?? [];
  const last = values.length - 1;
  return values[last] === null || values[last] === undefined ? null : [last];
};

function timeLabel(time: number, apart: number): string {
  const date = new Date(time * 1_000);
  const isMidnight = date.getHours() === 0 && date.getMinutes() === 0;
  if (apart < 86_400 && !isMidnight) return clock(time);
  return date.toLocaleDateString("en-GB", { weekday: "short", day: "numeric" });
}

/** A little more than the largest, and never nothing. */
function niceTop(max: number | null, empty: number): number {
  return max === null || max <= 0 ? empty : max * 1.08;
}
