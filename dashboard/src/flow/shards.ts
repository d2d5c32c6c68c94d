// Shards and their owners as a ring: which slot each shard has, and the arcs that are drawn.
//
// Owns: the order of shards on the ring, and its geometry.
// Does not own: colours, and what is drawn around it (Ring).
//
// Invariant: while owners come and go a shard keeps its slot, so that a node that dies is seen to dissolve in place and its
// shards to heal where they were.

/** Who has a shard. */
export interface Shard {
  id: number;
  /** The nodes that are written to, by name, the first one first. */
  owners: Owner[];
  /** How many owners it should have and has not. */
  lacking: number;
}

export interface Owner {
  node: string;
  /** It is read from; otherwise it is still catching up. */
  settled: boolean;
}

/** A piece of the ring. */
export interface Arc {
  shard: number;
  /** 0 for first owners, 1 for second ones, ... */
  rank: number;
  /** `undefined`: there should be an owner and is none. */
  owner: Owner | undefined;
  path: string;
}

/** A stretch of neighbouring slots whose first owner is the same node. */
export interface Stretch {
  node: string;
  shards: number;
  /** Of its middle, clockwise from the top, as part of a turn. */
  middle: number;
}

export const RING_RADIUS = 150;
const FIRST_WIDTH = 34;
const OTHER_WIDTH = 17;
const BETWEEN_RANKS = 4;
/** Between two arcs, as part of one slot. */
const GAP = 0.12;

/** The order of shards on the ring, kept from one placement to the next. */
export class Slots {
  private order: number[] = [];
  private nodes = "";

  /** Shards by slot. They are ordered anew only where all is calm: everybody settled, nobody missed, and other nodes than before. */
  arrange(shards: Shard[], calm: boolean): Shard[] {
    const nodes = [...new Set(shards.flatMap((shard) => shard.owners.map((owner) => owner.node)))].sort().join(" ");
    if (this.order.length !== shards.length || (calm && nodes !== this.nodes)) {
      this.order = [...shards].sort(byOwners).map((shard) => shard.id);
      this.nodes = nodes;
    }
    const byId = new Map(shards.map((shard) => [shard.id, shard]));
    return this.order.flatMap((id) => byId.get(id) ?? []);
  }
}

function byOwners(a: Shard, b: Shard): number {
  const key = (shard: Shard) => shard.owners.map((owner) => owner.node).join(" ");
  return key(a).localeCompare(key(b), undefined, { numeric: true }) || a.id - b.id;
}

/** The arcs of shards in the order of their slots, for so many owners each. */
export function arcs(slots: Shard[], replication: number): Arc[] {
  const ranks = Math.max(replication, ...slots.map((shard) => shard.owners.length));
  return slots.flatMap((shard, slot) =>
    Array.from({ length: ranks }, (_, rank) => rank)
      .filter((rank) => rank < shard.owners.length + shard.lacking)
      .map((rank) => ({
        shard: shard.id,
        rank,
        owner: shard.owners[rank],
        path: arcPath(slot / slots.length, (slot + 1 - GAP) / slots.length, ...radii(rank)),
      })),
  );
}

/** Outer and inner radius of a rank. */
function radii(rank: number): [number, number] {
  if (rank === 0) return [RING_RADIUS, RING_RADIUS - FIRST_WIDTH];
  const outer = RING_RADIUS - FIRST_WIDTH - BETWEEN_RANKS - (rank - 1) * (OTHER_WIDTH + BETWEEN_RANKS);
  return [outer, outer - OTHER_WIDTH];
}

/** Where a part of a turn lies at this radius. The ring's middle is 0, 0. */
export function at(turn: number, radius: number): [number, number] {
  const angle = (turn - 0.25) * 2 * Math.PI;
  return [round(Math.cos(angle) * radius), round(Math.sin(angle) * radius)];
}

function round(length: number): number {
  return Math.round(length * 100) / 100;
}

function arcPath(from: number, to: number, outer: number, inner: number): string {
  const large = to - from > 0.5 ? 1 : 0;
  const [a, b, c, d] = [at(from, outer), at(to, outer), at(to, inner), at(from, inner)];
  return `M${a}A${outer} ${outer} 0 ${large} 1 ${b}L${c}A${inner} ${inner} 0 ${large} 0 ${d}Z`;
}

/** Neighbouring slots by first owner; those of nobody are left out. */
export function stretches(slots: Shard[]): Stretch[] {
  const found: (Stretch & { from: number })[] = [];
  slots.forEach((shard, slot) => {
    const node = shard.owners[0]?.node;
    const last = found.at(-1);
    if (node === undefined) return;
    if (last && last.node === node && last.from + last.shards === slot) last.shards++;
    else found.push({ node, shards: 1, middle: 0, from: slot });
  });
  return found.map(({ node, shards, from }) => ({ node, shards, middle: (from + shards / 2) / slots.length }));
}
