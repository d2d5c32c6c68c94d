// The way of the data: one card per stage, in order, and the one that is looked at in full.

import { type ComponentChildren, Fragment } from "preact";
import type { Stage } from "../gen/tidemark/v1/flow_pb";
import { Badge } from "./badge";
import { conditionOf } from "./condition";
import { compact, exact, lag, rate } from "./numbers";
import { RateLine, type Rates } from "./rates";

/** Stages that leave the way: events that end there. */
const BRANCHES = new Set(["rejected", "duplicate"]);

interface Props {
  stages: Stage[];
  rates: Rates;
  /** The name of the stage that is looked at. */
  selected: string;
  onSelect: (name: string) => void;
  /** The stage in full, which stands below it on a narrow screen. */
  children: ComponentChildren;
}

/** All of it, left to right; on a narrow screen top to bottom. */
export function Way({ stages, rates, selected, onSelect, children }: Props) {
  return (
    <ol class="flow-way" aria-label="The way of the data">
      {stages.map((stage) => (
        <Fragment key={stage.name}>
          <li
            class={BRANCHES.has(stage.name) ? "flow-branch" : "flow-step"}
            data-stage={stage.name}
            data-moving={stage.perSecond > 0}
          >
            <Card stage={stage} rates={rates.of(stage.name)} selected={stage.name === selected} onSelect={onSelect} />
          </li>
          {stage.name === selected && <li class="flow-full">{children}</li>}
        </Fragment>
      ))}
    </ol>
  );
}

interface CardProps {
  stage: Stage;
  rates: number[];
  selected: boolean;
  onSelect: Props["onSelect"];
}

function Card({ stage, rates, selected, onSelect }: CardProps) {
  const condition = conditionOf(stage.condition);
  const select = () => onSelect(stage.name);
  return (
    <button
      type="button"
      class="flow-card"
      data-condition={condition}
      aria-pressed={selected}
      aria-controls="flow-stage"
      onClick={select}
      onFocus={select}
    >
      <span class="flow-card-head">
        <span class="flow-card-name">{stage.name}</span>
        <Badge condition={condition} />
      </span>
      <span class="flow-card-count" title={`${exact(stage.count)} ${stage.unit}`}>
        {compact(stage.count)} <small>{stage.unit}</small>
      </span>
      <span class="flow-card-foot">
        <span>{rate(stage.perSecond)}</span>
        {stage.lagMs !== undefined && <span>{lag(stage.lagMs)}</span>}
      </span>
      <RateLine rates={rates} />
    </button>
  );
}

/** What a stage's number says, why it is as it is, and what it is made of. */
export function InFull({ stage }: { stage: Stage }) {
  const condition = conditionOf(stage.condition);
  const parts = [...stage.parts].sort((a, b) => Number(b.count - a.count) || a.name.localeCompare(b.name));
  const largest = Number(parts[0]?.count ?? 0n);
  return (
    <section id="flow-stage" class="panel flow-stage" data-condition={condition} aria-label={`${stage.name}, in full`}>
      <h3>
        {stage.name} <Badge condition={condition} />
      </h3>
      <p>{stage.explanation}</p>
      {parts.length > 0 && (
        <table class="flow-parts">
          <caption>{stage.name === "rejected" ? "By reason" : "By node"}</caption>
          <tbody>
            {parts.map((part) => (
              <tr key={part.name}>
                <th scope="row">{part.name.replaceAll("_", " ")}</th>
                <td class="flow-bar" aria-hidden="true">
                  <span style={{ width: `${largest > 0 ? (Number(part.count) / largest) * 100 : 0}%` }} />
                </td>
                <td class="flow-number">{exact(part.count)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}
