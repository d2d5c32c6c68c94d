// Who takes part, as it is shown: every node with one word for how it is, and who owns which shard.
//
// Owns: making that of a flow, and what has to be remembered from one flow to the next: who was there.
// Does not own: what is drawn of it.

import type { Flow, Member } from "../gen/tidemark/v1/services_pb";
import type { Condition } from "./condition";
import type { Shard } from "./shards";

/** How a node is, in a word. */
export type NodeState = "active" | "joining" | "leaving" | "doubtful" | "missing" | "silent";

export interface Node {
  name: string;
  state: NodeState;
  condition: Condition;
  /** What the state means. */
  explanation: string;
  zone: string;
  version: string;
  address: string;
  /** Position of its colour; it keeps it while it is known. */
  colour: number;
  /** What it told of itself, where it did. */
  status: Status | undefined;
}

export interface Status {
  owned: number;
  ready: number;
  /** Blocks that others have and it does not. */
  behind: number;
  /** Blocks that no commit covers. */
  uncommitted: number;
  /** Start of the oldest bucket that has some, seconds since the Unix epoch; 0: none. */
  oldestUncommittedS: number;
}

export interface Membership {
  nodes: Node[];
  coordinators: Member[];
  shards: Shard[];
  replication: number;
  /** Every shard has all its owners, all are caught up, and nobody is missed. */
  calm: boolean;
}

const STATES: Record<NodeState, [Condition, string]> = {
  active: ["fine", "It is written to and read from."],
  joining: ["questionable", "It is written to, and is read from once it has what the others have."],
  leaving: ["questionable", "It is still read from, and hands over what only it has; then it goes."],
  doubtful: ["questionable", "It was given up a moment ago; nobody else has its place yet."],
  missing: ["fire", "It went without leaving. It may hold blocks that nobody else has: start it again."],
  silent: ["questionable", "It takes part, but did not say in time how it is doing."],
};

/** What is known of nodes, from one flow to the next. */
export class Known {
  private readonly last = new Map<string, Member>();
  private readonly colours = new Map<string, number>();

  membership(flow: Flow): Membership {
    const members = flow.members.filter((member) => member.role === "node");
    const present = new Set(members.map((member) => member.id));
    const missing = flow.missing.filter((name) => !present.has(name));
    for (const member of [...members, ...(flow.placement?.nodes ?? [])].reverse()) this.last.set(member.id, member);
    const names = [...present, ...missing].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    for (const name of names) if (!this.colours.has(name)) this.colours.set(name, this.colours.size);
    const shards = shardsOf(flow);
    const byName = new Map(members.map((member) => [member.id, member]));
    return {
      nodes: names.map((name) => this.node(name, byName.get(name))),
      coordinators: flow.members.filter((member) => member.role !== "node"),
      shards,
      replication: flow.placement?.replication ?? 1,
      calm: missing.length === 0 && shards.every((shard) => lacks(shard) === 0),
    };
  }

  /** The colour of a node's name; of one never seen too. */
  colour(name: string): number {
    return this.colours.get(name) ?? 0;
  }

  private node(name: string, member: Member | undefined): Node {
    const told = member ?? this.last.get(name);
    const state = member ? stateOf(member) : "missing";
    const [condition, explanation] = STATES[state];
    const facts = { zone: told?.zone ?? "", version: told?.version ?? "", address: told?.address ?? "" };
    return { name, state, condition, explanation, ...facts, colour: this.colour(name), status: member && statusOf(member) };
  }
}

function stateOf(member: Member): NodeState {
  if (member.doubtful) return "doubtful";
  if (member.state === "joining" || member.state === "leaving") return member.state;
  return member.status ? "active" : "silent";
}

function statusOf({ status }: Member): Status | undefined {
  if (!status) return undefined;
  return {
    owned: status.shardsOwned,
    ready: status.shardsReady,
    behind: Number(status.blocksBehind),
    uncommitted: Number(status.journalBlocks),
    oldestUncommittedS: status.oldestUncommittedS,
  };
}

function shardsOf({ placement }: Flow): Shard[] {
  if (!placement) return [];
  const doubtful = new Set(placement.nodes.filter((node) => node.doubtful).map((node) => node.id));
  // With fewer nodes than owners asked for, a shard lacks none that could be found by waiting; it is shown all the same.
  return placement.owners.map(({ writers, settled }, id) => {
    const owners = writers.map((at, rank) => {
      const node = placement.nodes[at]?.id ?? "";
      return { node, settled: rank < settled && !doubtful.has(node) };
    });
    return { id, owners, lacking: Math.max(0, placement.replication - owners.length) };
  });
}

/** How many owners of a shard are not there, or not caught up. */
export function lacks(shard: Shard): number {
  return shard.lacking + shard.owners.filter((owner) => !owner.settled).length;
}
