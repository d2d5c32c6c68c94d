// Putting changes into practice, without a browser.

import { expect, test } from "@playwright/test";
import { applied, cellsOf, classOf } from "../src/live/change";

const value = (cell: string | number | null) => ({
  kind: cell === null ? { case: undefined } : typeof cell === "string" ? { case: "text", value: cell } : { case: "integer", value: BigInt(cell) },
});
const row = (...cells: (string | number | null)[]) => ({ values: cells.map(value) });
const placed = (at: number, ...cells: (string | number | null)[]) => ({ at, row: row(...cells) });
// The messages' own fields are all that is looked at.
const change = (fields: object) => ({ added: [], changed: [], gone: [], ...fields }) as never;
const answer = (...rows: (string | number | null)[][]) => ({ columns: ["url", "views"], rows, facts: undefined });

test("rows that are gone go, changed ones move, and new ones come where they belong", () => {
  const next = applied(answer(["/a", 9], ["/b", 5], ["/c", 3]), change({
    gone: [row("/a")],
    changed: [placed(0, "/c", 7)],
    added: [placed(2, "/d", 1)],
  }));
  expect(next?.rows).toEqual([["/c", 7], ["/b", 5], ["/d", 1]]);
});

test("a key is all texts at the beginning, and a number that is not there is none", () => {
  const before = answer(["2026-01-01T00:00:00Z", "/a", null], ["2026-01-01T00:05:00Z", "/a", 2]);
  const next = applied(before, change({ changed: [placed(1, "2026-01-01T00:05:00Z", "/a", 3)] }));
  expect(next?.rows).toEqual([["2026-01-01T00:00:00Z", "/a", null], ["2026-01-01T00:05:00Z", "/a", 3]]);
  expect(cellsOf(row("x", null) as never)).toEqual(["x", null]);
});

test("classes that are replaced go with all their rows", () => {
  const rows = Array.from({ length: 50 }, (_, at): [string, number] => [`/${at}`, 100 - at]);
  const of = 8;
  const classes = [2, 5];
  const sent = rows.map((cells, at) => ({ cells, at })).filter(({ cells }) => classes.includes(classOf(cells, of)));
  expect(sent.length).toBeGreaterThan(0);
  const next = applied(answer(...rows), change({
    replaced: { of, classes },
    added: sent.map(({ cells, at }) => placed(at, ...cells)),
  }));
  expect(next?.rows).toEqual(rows);
});

test("classes are those that the program computes", () => {
  // As rollup/src/change.rs has it.
  expect(classOf(["a", 1], 0xffffffff)).toBe(0x3224db49);
});

test("a change that does not fit is none", () => {
  expect(applied(answer(["/a", 1]), change({ added: [placed(3, "/b", 1)] }))).toBeUndefined();
  expect(applied(answer(["/a", 1]), change({ replaced: { of: 0, classes: [] } }))).toBeUndefined();
});
