// The token that calls are made with, where the coordinator wants one.
//
// Owns: keeping it for as long as the tab is open, showing it, and telling when one is asked for.
// Does not own: where it is typed in (parts/sign-in.tsx), what it allows.

import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";

const KEY = "tidemark-token";
const ASKED = "asked";
const asking = new EventTarget();

/** Calls `heard` with the reason whenever a token is asked for; returns what ends that. */
export function onAsked(heard: (why: string) => void): () => void {
  const listener = (event: Event) => heard((event as CustomEvent<string>).detail);
  asking.addEventListener(ASKED, listener);
  return () => asking.removeEventListener(ASKED, listener);
}

/** Uses this token from now on. Not kept beyond the tab: whoever comes after may be somebody else. */
export function use(token: string): void {
  sessionStorage.setItem(KEY, token.trim());
}

/** Shows the token with each call. */
export const withToken: Interceptor = (next) => async (request) => {
  const token = sessionStorage.getItem(KEY);
  if (token !== null) request.header.set("authorization", `Bearer ${token}`);
  try {
    const response = await next(request);
    if (!response.stream) return response;
    return { ...response, message: watched(response.message) };
  } catch (error) {
    throw noted(error);
  }
};

/** A stream's messages; that it ends for want of a token is noted, too. */
async function* watched<T>(messages: AsyncIterable<T>): AsyncIterable<T> {
  try {
    yield* messages;
  } catch (error) {
    throw noted(error);
  }
}

function noted(error: unknown): unknown {
  const { code, rawMessage } = ConnectError.from(error);
  if (code === Code.Unauthenticated) asking.dispatchEvent(new CustomEvent(ASKED, { detail: rawMessage }));
  return error;
}
