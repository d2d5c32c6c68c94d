// A condition: sign, word and colour.

import { CONDITIONS, type Condition } from "./condition";

export function Badge({ condition, word }: { condition: Condition; word?: string }) {
  const { sign, word: usual } = CONDITIONS[condition];
  return (
    <span class="flow-badge" data-condition={condition}>
      <span aria-hidden="true">{sign}</span> {word ?? usual}
    </span>
  );
}
