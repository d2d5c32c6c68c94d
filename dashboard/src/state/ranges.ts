// The ranges of time to choose from, and what suits each: its steps, and what it is compared with.

export type Granularity = "5m" | "1h" | "1d";

export interface Range {
  /** On its button. */
  label: string;
  /** In a sentence: "in ...". */
  words: string;
  seconds: number;
  granularity: Granularity;
  /** Of the small lines in tables. */
  spark: Granularity;
  /** `versus` of the query. */
  versus: "week" | "month" | "year";
  /** What that is called. */
  versusLabel: string;
}

export type RangeName = keyof typeof RANGES;

const HOUR = 3_600;
const DAY = 24 * HOUR;
const OVER_WEEK = { versus: "week", versusLabel: "a week before" } as const;
const OVER_YEAR = { versus: "year", versusLabel: "a year before" } as const;

export const RANGES = {
  "30m": { label: "30 m", words: "the last 30 minutes", seconds: HOUR / 2, granularity: "5m", spark: "5m", ...OVER_WEEK },
  "1h": { label: "1 h", words: "the last hour", seconds: HOUR, granularity: "5m", spark: "5m", ...OVER_WEEK },
  "6h": { label: "6 h", words: "the last 6 hours", seconds: 6 * HOUR, granularity: "5m", spark: "5m", ...OVER_WEEK },
  "24h": { label: "24 h", words: "the last 24 hours", seconds: DAY, granularity: "5m", spark: "1h", ...OVER_WEEK },
  today: { label: "Today", words: "today", seconds: DAY, granularity: "5m", spark: "1h", ...OVER_WEEK },
  "7d": { label: "7 d", words: "the last 7 days", seconds: 7 * DAY, granularity: "1h", spark: "1h", ...OVER_WEEK },
  "30d": { label: "30 d", words: "the last 30 days", seconds: 30 * DAY, granularity: "1d", spark: "1d", versus: "month", versusLabel: "four weeks before" },
  "1y": { label: "1 y", words: "the last year", seconds: 365 * DAY, granularity: "1d", spark: "1d", ...OVER_YEAR },
  "2y": { label: "2 y", words: "the last two years", seconds: 730 * DAY, granularity: "1d", spark: "1d", ...OVER_YEAR },
} as const satisfies Record<string, Range>;

export const STEP_SECONDS: Record<Granularity, number> = { "5m": 300, "1h": HOUR, "1d": DAY };

/** `from` of the query. Today begins at midnight where the reader is. */
export function fromOf(range: RangeName, midnight: Date): string {
  if (range === "today") return midnight.toISOString();
  return range === "30m" ? "-30m" : range === "1y" ? "-365d" : range === "2y" ? "-730d" : `-${range}`;
}

/** Start of the range, Unix seconds, on steps of so many seconds. */
export function startOf(range: RangeName, midnight: Date, nowSeconds: number, step: number): number {
  const from = range === "today" ? midnight.getTime() / 1_000 : nowSeconds - RANGES[range].seconds;
  return Math.floor(from / step) * step;
}

/** The last midnight of the reader's clock. */
export function midnight(now: Date): Date {
  return new Date(now.getFullYear(), now.getMonth(), now.getDate());
}
