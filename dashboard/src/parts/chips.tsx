// What is filtered by: each chip takes its filter away.

import type { Conditions } from "../state/address";
import { dimensionTitle, valueName } from "./names";

interface Props {
  where: Conditions;
  onToggle: (dimension: string, value: string) => void;
  onClear: () => void;
}

export function Chips({ where, onToggle, onClear }: Props) {
  const chips = Object.entries(where).flatMap(([dimension, values]) => values.map((value) => ({ dimension, value })));
  if (chips.length === 0) return null;
  return (
    <ul class="chips" aria-label="Filters">
      {chips.map(({ dimension, value }) => (
        <li key={`${dimension} ${value}`}>
          <button
            type="button"
            class="chip"
            data-testid="chip"
            data-dimension={dimension}
            data-value={value}
            title="Take this filter away"
            onClick={() => onToggle(dimension, value)}
          >
            <span class="chip-text">
              <span class="muted">{dimensionTitle(dimension)} </span>
              {valueName(dimension, value)}
            </span>
            <span class="chip-cross" aria-hidden="true">×</span>
            <span class="hidden">, take this filter away</span>
          </button>
        </li>
      ))}
      {chips.length > 1 && (
        <li>
          <button type="button" class="small-button" onClick={onClear}>
            Clear all
          </button>
        </li>
      )}
    </ul>
  );
}
