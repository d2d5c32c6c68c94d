// What the views use to ask.
//
// Owns: the client, and the hook by which a view has its answers.
// Does not own: the stream behind it (stream.ts).

import { createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { useEffect, useRef, useState } from "preact/hooks";
import { Analytics } from "../gen/tidemark/v1/services_pb";
import { Live } from "./stream";
import type { Known, Questions } from "./stream";
import { withToken } from "./token";

export type { Answer, Cell } from "./change";
export type { Connection, Known, Query, Questions } from "./stream";

/** The coordinator that the page came from. */
export const client = createClient(Analytics, createGrpcWebTransport({ baseUrl: location.origin, interceptors: [withToken] }));

/**
 * Answers to these questions, kept up to date. To be called once in a page: all that is shown shares one stream. Answers that
 * stay asked for stay there while others come; an answer is the same object until it changes.
 */
export function useLive(questions: Questions, everyMs = 1_000): Known {
  const [known, setKnown] = useState<Known>({ answers: {}, error: undefined, connection: { state: "connecting" } });
  const live = useRef<Live | undefined>(undefined);
  useEffect(() => {
    const opened = new Live(client, setKnown, everyMs);
    live.current = opened;
    return () => opened.close();
  }, [everyMs]);
  // After each rendering; it does nothing where they are the same.
  useEffect(() => live.current?.ask(questions));
  return known;
}
