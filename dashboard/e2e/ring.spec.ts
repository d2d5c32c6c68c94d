// The ring's arithmetic, without a browser.

import { expect, test } from "@playwright/test";
import { type Shard, Slots, arcs, stretches } from "../src/flow/shards";

const SHARDS = 16;

function shard(id: number, ...owners: string[]): Shard {
  return { id, owners: owners.map((node) => ({ node, settled: true })), lacking: Math.max(0, 2 - owners.length) };
}

/** Owners by turns: neighbouring shards have different ones. */
function shards(nodes: string[]): Shard[] {
  return Array.from({ length: SHARDS }, (_, id) => shard(id, nodes[id % nodes.length] ?? "", nodes[(id + 1) % nodes.length] ?? ""));
}

const ids = (slots: Shard[]) => slots.map(({ id }) => id);

test("shards of one first owner stand together", () => {
  const slots = new Slots().arrange(shards(["n0", "n1", "n2", "n10"]), true);
  expect(stretches(slots).map(({ node, shards }) => [node, shards])).toEqual([
    ["n0", 4],
    ["n1", 4],
    ["n2", 4],
    ["n10", 4],
  ]);
});

test("a shard keeps its slot while a node dies, is replaced and comes back", () => {
  const slots = new Slots();
  const before = ids(slots.arrange(shards(["n0", "n1", "n2"]), true));
  expect(ids(slots.arrange(shards(["n0", "n1"]), false))).toEqual(before);
  expect(ids(slots.arrange(shards(["n0", "n1", "n2"]), true))).toEqual(before);
});

test("nodes that came to stay have the shards ordered anew", () => {
  const slots = new Slots();
  slots.arrange(shards(["n0", "n1"]), true);
  const after = slots.arrange(shards(["n0", "n1", "n2"]), true);
  expect(stretches(after)).toHaveLength(3);
});

test("an owner that should be there and is not has an arc of its own", () => {
  const drawn = arcs([shard(0, "n0", "n1"), shard(1, "n0"), shard(2)], 2);
  expect(drawn.map(({ shard, rank, owner }) => [shard, rank, owner?.node])).toEqual([
    [0, 0, "n0"],
    [0, 1, "n1"],
    [1, 0, "n0"],
    [1, 1, undefined],
    [2, 0, undefined],
    [2, 1, undefined],
  ]);
  expect(new Set(drawn.map(({ path }) => path)).size).toBe(drawn.length);
});
