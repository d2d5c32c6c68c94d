// What the Now and URL views ask, all at once.
//
// Owns: the queries. Does not own: what is made of the answers.

import type { Query } from "../live";
import type { Address, Conditions } from "../state/address";
import { typedUrl } from "../parts/names";
import { RANGES, fromOf } from "../state/ranges";

/** Rows of the table of URLs, and of the other tables. */
export const TOP_URLS = 18;
export const TOP_VALUES = 7;
/** As many as a query gives at most. */
export const ALL_URLS = 10_000;
const LOAD = ["load_ms.p50", "load_ms.p95", "load_ms.p99"];
/** Rounded up to a step it is the end of the last five minutes that have ended, as time goes by. */
const LAST_END = "-5m";
/** Nothing of a range that is younger has ended. */
const YOUNG_MS = 6 * 60_000;

export type Scope = Pick<Address, "site" | "range" | "measure" | "where">;

type Filters = { dimension: string; in?: string[]; prefix?: string }[];

export function filtersOf(where: Conditions): Filters {
  return Object.entries(where).map(([dimension, values]) => ({ dimension, in: [...values] }));
}

/** Which dimensions have a table of their own. */
export function tablesOf(site: string): string[] {
  return [...(site === "*" ? ["site"] : []), "referrer", "country", "device"];
}

/** The questions about the whole of it: figures, chart, tables. */
export function overview(scope: Scope, midnight: Date, nowMs: number): Record<string, Query> {
  const { site, range, where, measure } = scope;
  const { granularity, versus } = RANGES[range];
  const of = { site, filters: filtersOf(where) };
  const whole = { ...of, from: fromOf(range, midnight), to: "now" };
  const questions: Record<string, Query> = {
    active: { ...of, from: "-5m", to: "now", granularity: "all", measures: ["active"] },
    recent: { ...of, from: "-5m", to: "now", granularity: "5m", measures: ["views"] },
    totals: { ...whole, granularity: "all", measures: ["views", "visitors", ...LOAD] },
    series: { ...whole, granularity, measures: [measure, ...LOAD], versus },
  };
  if (hasEnded(range, midnight, nowMs)) {
    questions["ended"] = { ...whole, to: LAST_END, granularity: "all", measures: ["views", "visitors"], versus };
  }
  for (const dimension of tablesOf(site)) {
    questions[dimension] = { ...whole, granularity: "all", measures: [measure], groupBy: [dimension], limit: TOP_VALUES };
  }
  return questions;
}

/** The top URLs, and what stands beside each of those that are shown. */
export function topUrls(scope: Scope, midnight: Date, nowMs: number, shown: string[]): Record<string, Query> {
  const { site, range, where, measure } = scope;
  const { spark, versus } = RANGES[range];
  const whole = { site, filters: filtersOf(where), from: fromOf(range, midnight), to: "now", groupBy: ["url"] };
  const questions: Record<string, Query> = {
    urls: { ...whole, granularity: "all", measures: ["views", "visitors", "load_ms.p95"], orderBy: measure, limit: TOP_URLS },
  };
  if (shown.length === 0) return questions;
  const { url: _, ...others } = where;
  const these = { ...whole, filters: [...filtersOf(others), { dimension: "url", in: shown }], limit: shown.length };
  questions["urlActive"] = { ...these, from: "-5m", granularity: "all", measures: ["active"] };
  questions["urlSteps"] = { ...these, granularity: spark, measures: [measure] };
  if (hasEnded(range, midnight, nowMs)) {
    questions["urlEnded"] = { ...these, to: LAST_END, granularity: "all", measures: [measure], versus };
  }
  return questions;
}

/** Every URL that begins so, as far as an answer goes. */
export function allUrls(scope: Scope, midnight: Date, search: string): Query {
  const { site, range, where, measure } = scope;
  const filters = filtersOf(where);
  if (search !== "") filters.push({ dimension: "url", prefix: typedUrl(search) });
  return {
    site,
    filters,
    from: fromOf(range, midnight),
    to: "now",
    granularity: "all",
    measures: ["views", "visitors", "load_ms.p95"],
    groupBy: ["url"],
    orderBy: measure,
    limit: ALL_URLS,
  };
}

function hasEnded(range: Scope["range"], midnight: Date, nowMs: number): boolean {
  return range !== "today" || nowMs - midnight.getTime() > YOUNG_MS;
}
