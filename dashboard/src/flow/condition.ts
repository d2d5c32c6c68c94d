// How things are: a colour, never without a sign and a word.

import { Condition as Wire } from "../gen/tidemark/v1/flow_pb";

export type Condition = "fine" | "questionable" | "fire";

/** What stands beside the colour. */
export const CONDITIONS: Record<Condition, { sign: string; word: string }> = {
  fine: { sign: "✓", word: "Fine" },
  questionable: { sign: "?", word: "Questionable" },
  fire: { sign: "!", word: "On fire" },
};

const ORDER: Condition[] = ["fine", "questionable", "fire"];

/** Unspecified is a newer program's: worth a question. */
export function conditionOf(wire: Wire): Condition {
  if (wire === Wire.FINE) return "fine";
  return wire === Wire.ON_FIRE ? "fire" : "questionable";
}

/** The worst of all. */
export function worst(conditions: Condition[]): Condition {
  return ORDER[Math.max(0, ...conditions.map((condition) => ORDER.indexOf(condition)))] ?? "fine";
}
