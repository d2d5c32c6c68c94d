// The largest values of one dimension: each filters by itself.

import type { Answer } from "../live";
import { entries, number, text } from "./answer";
import { Export } from "./export";
import { OTHER, dimensionTitle, valueName } from "./names";
import { exact, share } from "./number";

interface Props {
  dimension: string;
  measure: string;
  answer: Answer | undefined;
  /** Of everything, to say shares of. */
  total: number | null;
  /** Values that are filtered by. */
  chosen: readonly string[];
  onToggle: (dimension: string, value: string) => void;
}

export function Breakdown({ dimension, measure, answer, total, chosen, onToggle }: Props) {
  const rows = entries(answer);
  const most = Math.max(1, ...rows.map((row) => number(row[measure]) ?? 0));
  const title = dimensionTitle(dimension, true);
  return (
    <section class="panel" aria-label={title} data-testid={`table-${dimension}`}>
      <div class="panel-head">
        <h2>{title}</h2>
        {rows.length > 0 && <Export name={title} rows={() => rows} />}
      </div>
      {answer && rows.length === 0 && <p class="nothing">Nothing yet.</p>}
      <ul class="entries">
        {rows.map((row) => {
          const value = text(row, dimension);
          const count = number(row[measure]) ?? 0;
          const isChosen = chosen.includes(value);
          const content = (
            <>
              <span class="entry-bar" style={{ width: `${(100 * count) / most}%` }} />
              <span class="entry-name">{valueName(dimension, value)}</span>
              <span data-testid="count">{exact(count)}</span>
              {/* Visitors of several values are several times among them: shares of them say little. */}
              {measure === "views" && <span class="entry-share">{total ? share(Math.min(1, count / total)) : ""}</span>}
            </>
          );
          return (
            <li key={value}>
              {value === OTHER ? (
                <div class="entry" title="What is beyond the number of values that are kept">{content}</div>
              ) : (
                <button
                  type="button"
                  class="entry"
                  data-testid="entry"
                  data-dimension={dimension}
                  data-value={value}
                  aria-pressed={isChosen}
                  title={isChosen ? "Stop filtering by it" : `Filter by ${valueName(dimension, value)}`}
                  onClick={() => onToggle(dimension, value)}
                >
                  {content}
                </button>
              )}
            </li>
          );
        })}
      </ul>
    </section>
  );
}
