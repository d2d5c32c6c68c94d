// A line over time, on a grid without holes.

import type { Answer } from "../live";
import { number, seconds } from "./answer";

/** Longest grid: two years of days, or a week of hours, or a day of five minutes fit. */
const MOST_STEPS = 1_000;

export interface Series {
  /** Start of each step, Unix seconds. */
  times: number[];
  /** Per step; null: there is no such number. */
  now: (number | null)[];
  then: (number | null)[];
  /** Position of the first step that is still running; `times.length`: all have ended. */
  running: number;
}

/**
 * The column over the steps from `start` to now. A step without a row counts `absent`, now and then: it had no events. Then, there is
 * no such number for a step that still runs.
 */
export function seriesOf(answer: Answer, column: string, start: number, step: number, absent: 0 | null, nowSeconds: number): Series {
  const { columns, rows, facts } = answer;
  const [timeAt, at, thenAt] = ["time", column, `versus.${column}`].map((name) => columns.indexOf(name)) as [number, number, number];
  const last = rows.reduce((last, row) => Math.max(last, seconds(row[timeAt])), 0);
  const running = seconds(facts?.runningFrom || null);
  const end = Math.max(last, Number.isNaN(running) ? Math.floor(nowSeconds / step) * step : running);
  const count = Math.min(MOST_STEPS, Math.max(1, Math.round((end - start) / step) + 1));
  const first = end - (count - 1) * step;
  const times = Array.from({ length: count }, (_, n) => first + n * step);
  const found = times.findIndex((time) => time >= running);
  const runningAt = found < 0 ? count : found;
  const now = new Array<number | null>(count).fill(absent);
  const then = times.map((_, at): number | null => (at < runningAt ? absent : null));
  for (const row of rows) {
    const position = Math.round((seconds(row[timeAt]) - first) / step);
    if (position < 0 || position >= count) continue;
    now[position] = number(row[at]) ?? absent;
    if (thenAt >= 0) then[position] = number(row[thenAt]);
  }
  // Nothing at all then is no line along the bottom.
  if (then.every((value) => !value)) then.fill(null);
  return { times, now, then, running: runningAt };
}
