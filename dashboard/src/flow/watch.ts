// The flow as it comes: one report after the other, from a stream that is opened again when it ends.

import type { Client } from "@connectrpc/connect";
import type { Analytics, Flow } from "../gen/tidemark/v1/services_pb";

const EVERY_MS = 1_000;
/** Without a report for so long the stream is given up: a connection can hang without ending. */
const SILENT_MS = 5_000;
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5_000;

/** What is told: a report, or that there is no connection. */
export interface Listener {
  onFlow: (flow: Flow) => void;
  onLost: () => void;
}

/** Tells of flows until it is stopped. */
export async function watchFlow(client: Pick<Client<typeof Analytics>, "watchFlow">, listener: Listener, stopped: AbortSignal): Promise<void> {
  let pause = FIRST_PAUSE_MS;
  while (!stopped.aborted) {
    const stream = new AbortController();
    const stop = () => stream.abort();
    stopped.addEventListener("abort", stop);
    let silence = setTimeout(stop, SILENT_MS);
    try {
      for await (const flow of client.watchFlow({ everyMs: EVERY_MS }, { signal: stream.signal })) {
        clearTimeout(silence);
        silence = setTimeout(stop, SILENT_MS);
        pause = FIRST_PAUSE_MS;
        listener.onFlow(flow);
      }
    } catch {
      // Whatever ended it, it is opened again.
    } finally {
      clearTimeout(silence);
      stopped.removeEventListener("abort", stop);
    }
    if (stopped.aborted) return;
    listener.onLost();
    await sleep(pause, stopped);
    pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
  }
}

function sleep(ms: number, stopped: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    stopped.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}
