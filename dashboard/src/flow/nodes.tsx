// Nodes and coordinators: one card each; and everything the picture shows as tables.

import { Badge } from "./badge";
import type { Membership, Node } from "./members";
import { exact } from "./numbers";
import { PALETTE } from "./ring";
import type { Shard } from "./shards";

/** All nodes. The one under the pointer or the focus stands out on the ring. */
export function Nodes({ nodes, onFocus }: { nodes: Node[]; onFocus: (node: string | undefined) => void }) {
  return (
    <ul class="flow-nodes" aria-label="Nodes">
      {nodes.map((node) => (
        <li
          key={node.name}
          class="flow-node"
          data-node={node.name}
          data-state={node.state}
          tabIndex={0}
          onMouseEnter={() => onFocus(node.name)}
          onMouseLeave={() => onFocus(undefined)}
          onFocus={() => onFocus(node.name)}
          onBlur={() => onFocus(undefined)}
        >
          <NodeCard node={node} />
        </li>
      ))}
    </ul>
  );
}

function NodeCard({ node }: { node: Node }) {
  const where = [node.zone && `zone ${node.zone}`, node.address, node.version && `version ${node.version}`];
  return (
    <>
      <span class="flow-node-head">
        <span class="flow-swatch" style={{ background: `var(--flow-node-${node.colour % PALETTE})` }} aria-hidden="true" />
        <strong>{node.name}</strong>
        <Badge condition={node.condition} word={node.state} />
      </span>
      <span class="flow-node-where">{where.filter(Boolean).join(" · ")}</span>
      {node.status ? <Told {...node.status} /> : <span class="flow-node-why">{node.explanation}</span>}
      {node.status && node.state !== "active" && <span class="flow-node-why">{node.explanation}</span>}
    </>
  );
}

function Told({ owned, ready, behind, uncommitted, oldestUncommittedS }: NonNullable<Node["status"]>) {
  const share = owned > 0 ? (ready / owned) * 100 : 100;
  return (
    <>
      <span class="flow-ready">
        <span class="flow-ready-bar" aria-hidden="true">
          <span style={{ width: `${share}%` }} data-healing={ready < owned} />
        </span>
        <span class="flow-ready-word">{`${ready} of ${owned} shards ready`}</span>
      </span>
      <span class="flow-node-blocks">
        {`${exact(uncommitted)} blocks uncommitted`}
        {oldestUncommittedS > 0 && ` since ${clock(oldestUncommittedS)}`}
        {behind > 0 && ` · ${exact(behind)} to fetch`}
      </span>
    </>
  );
}

/** The time of day, here. */
function clock(second: number): string {
  return new Date(second * 1_000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
}

export function Coordinators({ coordinators }: { coordinators: Membership["coordinators"] }) {
  return (
    <ul class="flow-coordinators" aria-label="Coordinators">
      {coordinators.map((one) => (
        <li key={one.id} data-coordinator={one.id}>
          <strong>{one.id}</strong> {[one.address, one.zone && `zone ${one.zone}`, `version ${one.version}`].filter(Boolean).join(" · ")}{" "}
          <Badge condition={one.doubtful ? "questionable" : "fine"} word={one.doubtful ? "doubtful" : one.state} />
        </li>
      ))}
    </ul>
  );
}

/** Who owns what, for whoever does not see the ring. */
export function ShardTable({ shards }: { shards: Shard[] }) {
  return (
    <details class="flow-table">
      <summary>Shards as a table</summary>
      <div class="flow-table-scroll" tabIndex={0} role="region" aria-label="Shards and their owners">
        <table>
          <thead>
            <tr>
              <th scope="col">Shard</th>
              <th scope="col">First owner</th>
              <th scope="col">Other owners</th>
            </tr>
          </thead>
          <tbody>
            {shards.map(({ id, owners: [first, ...others], lacking }) => (
              <tr key={id}>
                <th scope="row">{id}</th>
                <td>{first ? named(first) : "nobody"}</td>
                <td>{[...others.map(named), ...(lacking > 0 ? [`${lacking} lacking`] : [])].join(", ") || "none"}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </details>
  );
}

function named({ node, settled }: Shard["owners"][number]): string {
  return settled ? node : `${node} (catching up)`;
}
