// Says that the coordinator is away, and when it is tried again.

import { useEffect, useState } from "preact/hooks";
import type { Connection } from "../live";

export function Away({ connection }: { connection: Connection }) {
  const { state, retryAtMs, refusal } = connection;
  const [, setTurn] = useState(0);
  const isLost = state === "lost";
  useEffect(() => {
    if (!isLost) return undefined;
    const timer = setInterval(() => setTurn((turn) => turn + 1), 500);
    return () => clearInterval(timer);
  }, [isLost]);
  const left = retryAtMs === undefined ? 0 : Math.ceil((retryAtMs - Date.now()) / 1_000);
  return (
    <div role="status" aria-live="polite">
      {isLost && (
        <div class="band" data-kind="away" data-testid="away">
          <b>{refusal === undefined ? "The coordinator is away." : "The coordinator does not answer for now."}</b>
          <span>{refusal ?? "What you see was so until then."}</span>
          {/* Not for who listens: it changes each second. */}
          <span class="muted" aria-hidden="true">{left > 0 ? `Reconnecting in ${left} s` : "Reconnecting …"}</span>
        </div>
      )}
    </div>
  );
}
