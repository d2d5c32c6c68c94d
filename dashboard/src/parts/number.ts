// Numbers and times as text.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const TENTH = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const PERCENT = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 0, signDisplay: "exceptZero" });
const SHARE = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });

/** What stands where there is no number. */
export const NONE = "–";

/** All digits. */
export function exact(number: number | null | undefined): string {
  return number === null || number === undefined ? NONE : WHOLE.format(number);
}

/** One digit after the point while that says something. */
export function fine(number: number | null | undefined): string {
  return number === null || number === undefined ? NONE : (number < 10 ? TENTH : WHOLE).format(number);
}

/** For axes: 12K. */
export function short(number: number): string {
  return SHORT.format(number);
}

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;

/** Milliseconds, in the unit that suits them. */
export function duration(ms: number | null | undefined): string {
  if (ms === null || ms === undefined) return NONE;
  if (ms < 1_000) return `${WHOLE.format(ms)} ms`;
  if (ms < 100_000) return `${TENTH.format(ms / 1_000)} s`;
  if (ms < 100 * MINUTE_MS) return `${WHOLE.format(ms / MINUTE_MS)} min`;
  return ms < 48 * HOUR_MS ? `${WHOLE.format(ms / HOUR_MS)} h` : `${WHOLE.format(ms / (24 * HOUR_MS))} d`;
}

/** With its sign. */
export function percent(ratio: number): string {
  return PERCENT.format(ratio);
}

/** Without. */
export function share(ratio: number): string {
  return SHARE.format(ratio);
}

const TIME = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const DAY_TIME = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });

/** The time of day. */
export function clock(seconds: number): string {
  return TIME.format(seconds * 1_000);
}

/** A step of time in words: days are the cluster's, in UTC. */
export function stepLabel(seconds: number, stepSeconds: number): string {
  return (stepSeconds >= 86_400 ? DAY : DAY_TIME).format(seconds * 1_000);
}
