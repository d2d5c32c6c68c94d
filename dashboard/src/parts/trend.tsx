// How much a number has changed, in percent.

import { NONE, exact, percent } from "./number";
import { trend } from "./answer";

interface Props {
  now: number | null;
  then: number | null;
  /** "a week before". */
  versusLabel: string;
}

/** Compares what has ended with the same part then; a dash where there is nothing to compare with. */
export function Trend({ now, then, versusLabel }: Props) {
  const change = trend(now, then);
  if (change === null) {
    return (
      <span class="trend" title={`Nothing to compare with ${versusLabel}`}>
        <span aria-hidden="true">{NONE}</span>
        <span class="hidden">nothing to compare with</span>
      </span>
    );
  }
  const way = Math.abs(change) < 0.005 ? "level" : change > 0 ? "up" : "down";
  const explained = `${exact(now)} in what has ended of it, ${exact(then)} in the same part ${versusLabel}`;
  return (
    <span class="trend" data-way={way} title={explained}>
      <span aria-hidden="true">{way === "up" ? "▲ " : way === "down" ? "▼ " : ""}</span>
      {percent(change)}
    </span>
  );
}
