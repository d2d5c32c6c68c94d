// From one answer to the next, as `docs/live.md` says.
//
// Owns: putting a change into practice.
// Does not own: where changes come from (stream.ts).

import type { Facts, Row, Value } from "../gen/tidemark/v1/query_pb";
import type { Change, PlacedRow } from "../gen/tidemark/v1/live_pb";

/** A text, a number, or nothing: there is no such number. */
export type Cell = string | number | null;

/** An answer as the page has it. */
export interface Answer {
  columns: string[];
  rows: Cell[][];
  facts: Facts | undefined;
}

/** Counts beyond 2^53 lose their last digits here; nobody reads those off a screen. */
export function cellOf(value: Value): Cell {
  switch (value.kind.case) {
    case "text":
      return value.kind.value;
    case "integer":
      return Number(value.kind.value);
    case "number":
      return value.kind.value;
    default:
      return null;
  }
}

export function cellsOf(row: Row | undefined): Cell[] {
  return (row?.values ?? []).map(cellOf);
}

/** The next answer; `undefined` where the change is not one of this answer. */
export function applied(answer: Answer, change: Change): Answer | undefined {
  const placed = [...change.added, ...change.changed].sort((a, b) => a.at - b.at);
  const leaving = new Set<string>();
  for (const row of change.gone) leaving.add(keyOf(cellsOf(row)));
  for (const { row } of change.changed) leaving.add(keyOf(cellsOf(row)));
  const { of, classes } = change.replaced ?? { of: 1, classes: [] };
  if (of === 0) return undefined;
  const replaced = new Set(classes);
  const stays = (row: Cell[]) =>
    !leaving.has(keyOf(row)) && (replaced.size === 0 || !replaced.has(classOf(row, of)));
  const rows = merged(answer.rows.filter(stays), placed);
  return rows && { columns: answer.columns, rows, facts: change.facts };
}

function merged(staying: Cell[][], placed: PlacedRow[]): Cell[][] | undefined {
  const rows: Cell[][] = [];
  let next = 0;
  for (const { at, row } of placed) {
    while (rows.length < at) {
      const stays = staying[next++];
      if (!stays) return undefined;
      rows.push(stays);
    }
    if (rows.length !== at) return undefined;
    rows.push(cellsOf(row));
  }
  return rows.concat(staying.slice(next));
}

/** Time and groups: the texts at a row's beginning. */
function textsOf(row: Cell[]): string[] {
  const end = row.findIndex((cell) => typeof cell !== "string");
  return (end < 0 ? row : row.slice(0, end)) as string[];
}

function keyOf(row: Cell[]): string {
  return textsOf(row).join("\u001f");
}

const utf8 = new TextEncoder();

/** FNV-1a over the key's texts, each followed by a byte 0x1f. */
export function classOf(row: Cell[], of: number): number {
  let hash = 0x811c9dc5;
  for (const text of textsOf(row)) {
    for (const byte of utf8.encode(text + "\u001f")) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  }
  return hash % of;
}
