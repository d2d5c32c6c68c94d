// Answers that stay until their successors are there: what is on the screen does not blink when something else is asked.

import { useRef } from "preact/hooks";
import type { Known } from "../live";
import type { Address } from "../state/address";

type Answers = Known["answers"];
/** What an answer has to be read by. */
type Reading = Pick<Address, "range" | "measure">;

/** Each by itself, while the key is the same. */
export function useKept(known: Known, names: readonly string[], key: string): Answers {
  const kept = useRef<{ key: string; answers: Answers }>({ key, answers: {} });
  if (kept.current.key !== key) kept.current = { key, answers: {} };
  const answers: Answers = {};
  for (const name of names) answers[name] = kept.current.answers[name] = known.answers[name] ?? kept.current.answers[name];
  return answers;
}

/** All of them at once: those of before, with what they are to be read by, until each of the new ones is there. */
export function useSteady(known: Known, names: readonly string[], address: Address, key: string) {
  const { range, measure } = address;
  const kept = useRef<{ key: string; answers: Answers; reading: Reading } | undefined>(undefined);
  const isWhole = names.every((name) => known.answers[name]);
  if (kept.current?.key !== key) kept.current = undefined;
  if (isWhole) kept.current = { key, answers: known.answers, reading: { range, measure } };
  const shown = kept.current ?? { answers: known.answers, reading: { range, measure } };
  return { answers: shown.answers, reading: shown.reading, isOld: !isWhole && kept.current !== undefined };
}
