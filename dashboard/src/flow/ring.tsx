// All shards as a ring: outside the first owner of each, inside the others.
//
// Hatched: still catching up. A dashed gap: there should be an owner and is none. Colours name nodes together with the words
// around the ring; whoever does not see it reads the table of shards.

import type { Membership, NodeState } from "./members";
import { lacks } from "./members";
import { type Arc, RING_RADIUS, type Shard, arcs, at, stretches } from "./shards";

interface Props {
  membership: Membership;
  /** In the order of their slots. */
  slots: Shard[];
  colour: (node: string) => number;
  /** The node that is looked at: the others step back. */
  focus: string | undefined;
}

/** What such a node owns, nobody can ask it for. */
const GONE = new Set<NodeState>(["doubtful", "missing"]);
/** Shorter stretches get no name. */
const NAMED_TURN = 0.06;

export function Ring({ membership, slots, colour, focus }: Props) {
  const { nodes, shards, replication } = membership;
  const healing = shards.filter((shard) => lacks(shard) > 0).length;
  const gone = new Set<string | undefined>(nodes.filter((node) => GONE.has(node.state)).map((node) => node.name));
  const label = `${shards.length} shards with ${replication} ${replication === 1 ? "owner" : "owners"} each, ${healing} of them healing`;
  return (
    <svg class="flow-ring" viewBox="-225 -178 450 356" role="img" aria-label={label}>
      <defs>
        {nodes.map((node) => (
          <Hatching key={node.name} colour={node.colour} />
        ))}
      </defs>
      {arcs(slots, replication).map((arc) => (
        <Piece key={`${arc.shard}/${arc.rank}`} arc={arc} colour={colour} focus={focus} gone={gone.has(arc.owner?.node)} />
      ))}
      {stretches(slots)
        .filter((stretch) => stretch.shards / slots.length >= NAMED_TURN)
        .map((stretch) => (
          <Name key={`${stretch.node}/${stretch.middle}`} node={stretch.node} turn={stretch.middle} />
        ))}
      <text class="flow-ring-count" y="-4">{shards.length}</text>
      <text class="flow-ring-word" y="18">shards</text>
      <text class="flow-ring-state" data-condition={healing > 0 ? "questionable" : "fine"} y="40">
        {healing > 0 ? `? ${healing} healing` : "✓ all owners ready"}
      </text>
    </svg>
  );
}

interface PieceProps {
  arc: Arc;
  colour: Props["colour"];
  focus: string | undefined;
  /** Its owner is not there any more. */
  gone: boolean;
}

function Piece({ arc, colour, focus, gone }: PieceProps) {
  const { owner, shard, rank } = arc;
  const role = rank === 0 ? "first owner" : `owner ${rank + 1}`;
  const said = owner ? `${owner.node}${owner.settled ? "" : ", catching up"}` : "nobody";
  const n = owner ? colour(owner.node) % PALETTE : 0;
  return (
    <path
      class="flow-arc"
      d={arc.path}
      data-owner={owner?.node ?? ""}
      data-settled={owner?.settled ?? false}
      data-gone={gone}
      data-dim={focus !== undefined && owner?.node !== focus}
      style={owner && { fill: owner.settled ? `var(--flow-node-${n})` : `url(#flow-hatch-${owner && colour(owner.node)})` }}
    >
      <title>{`shard ${shard}, ${role}: ${said}`}</title>
    </path>
  );
}

/** So many colours tell nodes apart; then they come again. */
export const PALETTE = 8;

function Hatching({ colour }: { colour: number }) {
  const fill = `var(--flow-node-${colour % PALETTE})`;
  return (
    <pattern id={`flow-hatch-${colour}`} width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
      <rect width="6" height="6" style={{ fill }} opacity="0.25" />
      <rect width="2.5" height="6" style={{ fill }} />
    </pattern>
  );
}

function Name({ node, turn }: { node: string; turn: number }) {
  const [x, y] = at(turn, RING_RADIUS + 12);
  const side = Math.abs(x) < 30 ? "middle" : x > 0 ? "start" : "end";
  return (
    <text class="flow-ring-node" x={x} y={y + 5} style={{ textAnchor: side }}>
      {node}
    </text>
  );
}
