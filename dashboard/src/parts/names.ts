// What values of dimensions are called.

const TITLES: Record<string, [one: string, many: string]> = {
  url: ["URL", "URLs"],
  site: ["Site", "Sites"],
  referrer: ["Referrer", "Referrers"],
  country: ["Country", "Countries"],
  device: ["Device", "Devices"],
};

let regions: Intl.DisplayNames | undefined;
try {
  regions = new Intl.DisplayNames(["en"], { type: "region" });
} catch {
  // Codes, then.
}

/** A dimension, as a heading. */
export function dimensionTitle(dimension: string, many = false): string {
  const [one, all] = TITLES[dimension] ?? [dimension, dimension];
  return many ? all : one;
}

/** A value, for reading. */
export function valueName(dimension: string, value: string): string {
  if (value === "") return dimension === "referrer" ? "(direct)" : "(unknown)";
  if (dimension === "country" && /^[A-Z]{2}$/.test(value)) {
    try {
      return regions?.of(value) ?? value;
    } catch {
      return value;
    }
  }
  return value;
}

/** What is beyond the limit of a dimension counts here, and cannot be filtered by. */
export const OTHER = "(other)";
