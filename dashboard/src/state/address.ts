// What the page shows, as its address says it: a link that is sent shows the same to who opens it.
//
// Owns: the names in the query string, and what of them is valid.
// Does not own: what is asked for it (now/questions.ts).

import { RANGES, type RangeName } from "./ranges";

export const VIEWS = ["now", "url", "flow"] as const;
export type ViewName = (typeof VIEWS)[number];

/** Measures that the chart and the bars can be of. */
export const MEASURES = ["views", "visitors"] as const;
export type MeasureName = (typeof MEASURES)[number];

/** Values by dimension: an event counts where it has one of them, in each dimension. */
export type Conditions = Readonly<Record<string, readonly string[]>>;

export interface Address {
  view: ViewName;
  /** "": whichever there is. */
  site: string;
  /** Of the URL view. */
  url: string;
  range: RangeName;
  measure: MeasureName;
  where: Conditions;
  /** All URLs are listed, those that start with `search`. */
  all: boolean;
  search: string;
  /** Milliseconds between updates; 0: as usual. */
  every: number;
}

const DEFAULT_RANGE: RangeName = "24h";
const WHERE = "where.";

export function parseAddress(query: string): Address {
  const parameters = new URLSearchParams(query);
  const where: Record<string, string[]> = {};
  for (const [name, value] of parameters) {
    if (name.startsWith(WHERE)) (where[name.slice(WHERE.length)] ??= []).push(value);
  }
  return {
    view: one(VIEWS, parameters.get("view"), "now"),
    site: (parameters.get("site") ?? "").toLowerCase(),
    url: parameters.get("url") ?? "",
    range: one(Object.keys(RANGES) as RangeName[], parameters.get("range"), DEFAULT_RANGE),
    measure: one(MEASURES, parameters.get("measure"), "views"),
    where,
    all: parameters.has("all"),
    search: parameters.get("search") ?? "",
    every: Math.max(0, Number.parseInt(parameters.get("every") ?? "0", 10) || 0),
  };
}

/** The shortest query string that says it. */
export function formatAddress(address: Address): string {
  const parameters = new URLSearchParams();
  const put = (name: string, value: string, usual = "") => value !== usual && parameters.append(name, value);
  put("site", address.site);
  put("view", address.view, "now");
  if (address.view === "url") put("url", address.url);
  put("range", address.range, DEFAULT_RANGE);
  put("measure", address.measure, "views");
  for (const [dimension, values] of Object.entries(address.where)) {
    for (const value of values) parameters.append(WHERE + dimension, value);
  }
  if (address.all && address.view === "now") {
    parameters.append("all", "1");
    put("search", address.search);
  }
  if (address.every > 0) put("every", String(address.every));
  const text = parameters.toString();
  // Slashes are fine in a query, and easier to read.
  return text === "" ? "" : `?${text.replaceAll("%2F", "/")}`;
}

/** Whether events can be sent to such a site: a host name, or nearly. */
export function isSite(text: string): boolean {
  return text !== "" && !/[\s\p{Cc}/*?#@]/u.test(text);
}

/** The conditions with this one turned on, or off where it is on. */
export function toggled(where: Conditions, dimension: string, value: string): Conditions {
  const had = where[dimension] ?? [];
  const values = had.includes(value) ? had.filter((other) => other !== value) : [...had, value];
  const { [dimension]: _, ...others } = where;
  return values.length === 0 ? others : { ...others, [dimension]: values };
}

function one<T extends string>(valid: readonly T[], text: string | null, usual: T): T {
  return valid.find((name) => name === text) ?? usual;
}
