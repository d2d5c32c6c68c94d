// One stream for all questions of the page.
//
// Owns: the answers at hand, their tokens, the stream, and opening it again.
// Does not own: what a change means (change.ts), what is asked (the views).
//
// Browsers open six connections to a host at most, so a page has one stream whatever it shows. When the questions change it is opened
// anew; those that stay the same resume, and what is on the screen stays until something newer comes.

import { create, toBinary } from "@bufbuild/protobuf";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Client } from "@connectrpc/connect";
import { QuerySchema } from "../gen/tidemark/v1/query_pb";
import type { Update } from "../gen/tidemark/v1/live_pb";
import type { Analytics } from "../gen/tidemark/v1/services_pb";
import { applied, cellsOf } from "./change";
import type { Answer } from "./change";

export type Query = MessageInitShape<typeof QuerySchema>;
export type Questions = Record<string, Query>;

/** Whether the coordinator is there. */
export interface Connection {
  state: "connecting" | "connected" | "lost";
  /** When it is tried again. */
  retryAtMs?: number;
  /** It is there, and says why it does not answer for now. */
  refusal?: string;
}

/** What the page knows. */
export interface Known {
  answers: Record<string, Answer | undefined>;
  /** A question cannot be answered as it is: what to do about it. */
  error: string | undefined;
  connection: Connection;
}

/** A coordinator sends something every ten seconds at least. */
const SILENT_MS = 25_000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 5_000;
/** A hidden page lets go of its connection after so long. */
const HIDDEN_MS = 60_000;

/** How a stream has ended. */
interface End {
  /** Asking again does not help: why. */
  error?: string;
  refusal?: string;
}

interface Held {
  answer: Answer | undefined;
  resume: string;
}

export class Live {
  private readonly held = new Map<string, Held>();
  private asked: [name: string, key: string, query: Query][] = [];
  private stream: AbortController | undefined;
  private known: Known = { answers: {}, error: undefined, connection: { state: "connecting" } };
  private isHidden = false;
  private hiding: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly client: Pick<Client<typeof Analytics>, "subscribe">,
    private readonly onKnown: (known: Known) => void,
    private readonly everyMs: number,
  ) {
    document.addEventListener("visibilitychange", this.onVisibility);
  }

  /** Asks these from now on, and no others. */
  ask(questions: Questions): void {
    const asked = Object.entries(questions).map(([name, query]): [string, string, Query] => [name, keyOf(query), query]);
    if (asked.length === this.asked.length && asked.every(([name, key], at) => this.asked[at]?.[0] === name && this.asked[at]?.[1] === key)) {
      return;
    }
    this.asked = asked;
    const keys = new Set(asked.map(([, key]) => key));
    for (const key of [...this.held.keys()]) if (!keys.has(key)) this.held.delete(key);
    this.tell({ error: undefined });
    this.open();
  }

  close(): void {
    document.removeEventListener("visibilitychange", this.onVisibility);
    clearTimeout(this.hiding);
    this.stream?.abort();
    this.asked = [];
  }

  private readonly onVisibility = (): void => {
    clearTimeout(this.hiding);
    if (document.hidden) {
      this.hiding = setTimeout(() => {
        this.isHidden = true;
        this.stream?.abort();
      }, HIDDEN_MS);
    } else if (this.isHidden) {
      this.isHidden = false;
      this.open();
    }
  };

  private open(): void {
    this.stream?.abort();
    if (this.asked.length === 0 || this.isHidden) return;
    this.stream = new AbortController();
    void this.follow(this.stream.signal);
  }

  /** Follows streams, one after the other, until it is stopped. */
  private async follow(stopped: AbortSignal): Promise<void> {
    let pauseMs = FIRST_PAUSE_MS;
    while (!stopped.aborted) {
      const end = await this.once(stopped, () => (pauseMs = FIRST_PAUSE_MS));
      if (stopped.aborted) return;
      if (end.error !== undefined) {
        this.tell({ error: end.error, connection: { state: "connected" } });
        return;
      }
      this.tell({ connection: { state: "lost", retryAtMs: Date.now() + pauseMs, ...(end.refusal && { refusal: end.refusal }) } });
      await sleep(pauseMs, stopped);
      pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS);
    }
  }

  /** One stream, to its end. */
  private async once(stopped: AbortSignal, onUpdate: () => void): Promise<End> {
    const asked = this.asked;
    const stream = new AbortController();
    const stop = () => stream.abort();
    stopped.addEventListener("abort", stop);
    let silence = setTimeout(stop, SILENT_MS);
    try {
      const subscriptions = asked.map(([, key, query]) => ({
        query,
        everyMs: this.everyMs,
        resume: this.held.get(key)?.resume ?? "",
      }));
      for await (const update of this.client.subscribe({ subscriptions }, { signal: stream.signal })) {
        clearTimeout(silence);
        silence = setTimeout(stop, SILENT_MS);
        onUpdate();
        if (!this.take(asked[update.subscription]?.[1], update)) break;
      }
    } catch (error) {
      const { code, rawMessage } = ConnectError.from(error);
      if (code === Code.InvalidArgument || code === Code.Unimplemented) return { error: rawMessage };
      if (code === Code.ResourceExhausted) return { refusal: rawMessage };
    } finally {
      clearTimeout(silence);
      stopped.removeEventListener("abort", stop);
      stream.abort();
    }
    return {};
  }

  /** Whether the update fits what is at hand; otherwise the question begins anew. */
  private take(key: string | undefined, update: Update): boolean {
    if (key === undefined) return true;
    const { kind, resume } = update;
    if (kind.case === "answer") {
      const { columns, rows, facts } = kind.value;
      this.held.set(key, { answer: { columns, rows: rows.map(cellsOf), facts }, resume });
    } else if (kind.case === "change") {
      const before = this.held.get(key)?.answer;
      const answer = before && applied(before, kind.value);
      if (!answer) {
        this.held.delete(key);
        return false;
      }
      this.held.set(key, { answer, resume });
    }
    this.tell({ connection: { state: "connected" }, error: undefined });
    return true;
  }

  private tell(news: Partial<Known>): void {
    const answers: Known["answers"] = {};
    for (const [name, key] of this.asked) answers[name] = this.held.get(key)?.answer;
    this.known = { ...this.known, ...news, answers };
    this.onKnown(this.known);
  }
}

/** Two queries that ask the same have the same key. */
function keyOf(query: Query): string {
  return toBinary(QuerySchema, create(QuerySchema, query)).join();
}

function sleep(ms: number, stopped: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      stopped.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    stopped.addEventListener("abort", done);
  });
}
