// What a view says when something is wrong: with its questions, or with the answers.

import { useEffect } from "preact/hooks";
import type { Connection, Known } from "../live";
import type { Address } from "../state/address";
import type { Go } from "../state/hooks";
import { Partial } from "./facts";

/** What each view is given. */
export interface ViewProps {
  address: Address;
  go: Go;
  onConnection: (connection: Connection) => void;
}

/** Tells the shell about the connection. */
export function useTold(connection: Connection, onConnection: ViewProps["onConnection"]): void {
  const { state, retryAtMs, refusal } = connection;
  useEffect(() => onConnection(connection), [state, retryAtMs, refusal]);
}

export function Troubles({ known }: { known: Known }) {
  return (
    <div class="troubles">
      {known.error !== undefined && (
        <div class="band" data-kind="error" role="alert" data-testid="error">
          <b>This cannot be answered as it is.</b>
          <span>{known.error}</span>
        </div>
      )}
      <Partial answers={Object.values(known.answers)} />
    </div>
  );
}
