// Reading answers: columns by name, cells as what they are.

import type { Answer, Cell } from "../live";

/** A number, or that there is none. */
export function number(cell: Cell | undefined): number | null {
  return typeof cell === "number" ? cell : null;
}

/** The column's numbers in the first row. */
export function figure(answer: Answer | undefined, column: string): number | null {
  if (!answer) return null;
  return number(answer.rows[0]?.[answer.columns.indexOf(column)]);
}

/** A row as a record. */
export type Entry = Record<string, Cell | undefined>;

/** All rows as records. */
export function entries(answer: Answer | undefined): Entry[] {
  if (!answer) return [];
  const { columns, rows } = answer;
  return rows.map((row) => Object.fromEntries(columns.map((column, at) => [column, row[at] ?? null])));
}

/** The row's text in this column. */
export function text(entry: Entry, column: string): string {
  const cell = entry[column];
  return cell === null || cell === undefined ? "" : String(cell);
}

/** Seconds since the Unix epoch of a time in an answer. */
export function seconds(time: Cell | undefined): number {
  return typeof time === "string" ? Date.parse(time) / 1_000 : Number.NaN;
}

/** How much it has changed since then, as a share; null where there is nothing to compare with. */
export function trend(now: number | null, then: number | null): number | null {
  return now === null || then === null || then === 0 ? null : now / then - 1;
}

