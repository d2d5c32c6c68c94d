// The Flow view: the way of the data through the cluster, and who takes part.
//
// Owns: which stage and which node are looked at, and what is remembered between reports.
// Does not own: the connection (watch.ts), and what a number or condition means: the coordinator says that.

import type { Client } from "@connectrpc/connect";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Analytics, Flow } from "../gen/tidemark/v1/services_pb";
import { conditionOf, worst } from "./condition";
import "./flow.css";
import { Known } from "./members";
import { Coordinators, Nodes, ShardTable } from "./nodes";
import { Rates } from "./rates";
import { Ring } from "./ring";
import { Slots } from "./shards";
import { InFull, Way } from "./stages";
import { watchFlow } from "./watch";

interface Props {
  client: Pick<Client<typeof Analytics>, "watchFlow">;
  /** Told whether there is a connection. */
  onConnected: (connected: boolean) => void;
}

export function FlowView({ client, onConnected }: Props) {
  const [flow, setFlow] = useState<Flow>();
  useEffect(() => {
    const stop = new AbortController();
    const onFlow = (flow: Flow) => {
      setFlow(flow);
      onConnected(true);
    };
    void watchFlow(client, { onFlow, onLost: () => onConnected(false) }, stop.signal);
    return () => stop.abort();
  }, [client, onConnected]);
  return (
    <div class="flow">{flow ? <Picture flow={flow} /> : <p role="status">Asking how the data flows …</p>}</div>
  );
}

function Picture({ flow }: { flow: Flow }) {
  const [chosen, setChosen] = useState<string>();
  const [focus, setFocus] = useState<string>();
  const known = useRef(new Known());
  const slots = useRef(new Slots());
  const rates = useRef(new Rates());
  rates.current.take(flow);
  const membership = known.current.membership(flow);
  const selected = flow.stages.find((stage) => stage.name === chosen) ?? worstStage(flow) ?? flow.stages[0];
  return (
    <>
      <h2>The way of the data</h2>
      <Way stages={flow.stages} rates={rates.current} selected={selected?.name ?? ""} onSelect={setChosen}>
        {selected && <InFull stage={selected} />}
      </Way>
      <h2>Who has it</h2>
      <section class="panel flow-cluster" aria-label="Nodes and shards">
        <Ring
          membership={membership}
          slots={slots.current.arrange(membership.shards, membership.calm)}
          colour={(node) => known.current.colour(node)}
          focus={focus}
        />
        <div>
          <Nodes nodes={membership.nodes} onFocus={setFocus} />
          <Coordinators coordinators={membership.coordinators} />
          <ShardTable shards={membership.shards} />
        </div>
      </section>
    </>
  );
}

/** What is looked at until somebody chooses: the first stage that is worst off. */
function worstStage({ stages }: Flow) {
  const found = worst(stages.map((stage) => conditionOf(stage.condition)));
  return stages.find((stage) => conditionOf(stage.condition) === found);
}
