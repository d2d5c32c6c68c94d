// How complete, how fresh and how exact the numbers are.

import type { Answer } from "../live";
import { dimensionTitle } from "./names";
import { duration, exact, share } from "./number";

type Facts = NonNullable<Answer["facts"]>;

/** A band that says what is missing: of all answers, the one that misses most. */
export function Partial({ answers }: { answers: (Answer | undefined)[] }) {
  const partial = answers.flatMap((answer) => (answer?.facts && !answer.facts.complete ? [answer.facts] : []));
  const worst = partial.sort((a, b) => missingShare(b) - missingShare(a))[0];
  return (
    <div role="status" aria-live="polite">
      {worst && (
        <div class="band" data-kind="partial" data-testid="partial">
          <b>{missingInWords(missingShare(worst))}</b>
          {worst.missing.map(({ node, share: part, shards, reason }) => (
            <span key={node}>
              {node} ({exact(shards)} shards, {share(part)}): {reason}
            </span>
          ))}
          <span class="muted">Numbers are complete again by themselves once it is back.</span>
        </div>
      )}
    </div>
  );
}

function missingInWords(part: number): string {
  if (part >= 1) return "All of the data is missing.";
  return part > 0 ? `About ${share(part)} of the data is missing.` : "These numbers are not complete.";
}

function missingShare(facts: Facts): number {
  const named = facts.missing.reduce((sum, { share }) => sum + share, 0);
  return named > 0 ? Math.min(1, named) : facts.shardsAsked > 0 ? 1 - facts.shardsAnswered / facts.shardsAsked : 0;
}

/** Below the numbers: what to know of them. */
export function Freshness({ facts }: { facts: Facts | undefined }) {
  if (!facts) return null;
  const capped = facts.capped.map((dimension) => dimensionTitle(dimension, true).toLowerCase());
  return (
    <p class="facts" data-testid="facts">
      <span>
        {exact(facts.shardsAnswered)} of {exact(facts.shardsAsked)} shards answered
      </span>
      {facts.freshnessMs !== undefined && <span>newest event {duration(Number(facts.freshnessMs))} old when this was answered</span>}
      {Number(facts.late) > 0 && <span>{exact(Number(facts.late))} late, and counted</span>}
      {Number(facts.rejected) > 0 && <span>{exact(Number(facts.rejected))} rejected, and not counted</span>}
      {capped.length > 0 && <span>many {capped.join(" and ")}: the rest is under “(other)”</span>}
    </p>
  );
}

/** What to say of a measure that is estimated; undefined where it is exact. */
export function errorOf(facts: Facts | undefined, measure: string): string | undefined {
  const error = facts?.errors[measure] ?? facts?.errors[measure.split(".")[0] ?? ""];
  return error !== undefined && error > 0 ? `An estimate: within about ±${share(error)}` : undefined;
}
