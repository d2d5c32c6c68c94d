// Numbers of the flow as text.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const FINE = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** All digits. */
export function exact(count: bigint | number): string {
  return WHOLE.format(count);
}

/** All digits while they are few. */
export function compact(count: bigint): string {
  return count < 100_000n ? exact(count) : SHORT.format(count);
}

export function rate(perSecond: number): string {
  return `${perSecond >= 100 ? WHOLE.format(perSecond) : FINE.format(perSecond)}/s`;
}

/** How far behind. */
export function lag(ms: bigint | number): string {
  return Number(ms) === 0 ? "up to date" : `${span(Number(ms))} behind`;
}

/** A span of time, in the unit that suits it. */
export function span(ms: number): string {
  if (ms < 1_000) return `${WHOLE.format(ms)} ms`;
  if (ms < 100_000) return `${FINE.format(ms / 1_000)} s`;
  if (ms < 6_000_000) return `${WHOLE.format(ms / 60_000)} min`;
  return `${FINE.format(ms / 3_600_000)} h`;
}
