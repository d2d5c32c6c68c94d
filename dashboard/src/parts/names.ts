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
  if (dimension === "url") return readableUrl(value) || "(none)";
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

/** A URL with its letters in place of their bytes; what would be invisible, or turn the text around, stays as it is. */
export function readableUrl(url: string): string {
  try {
    return decodeURI(url).replaceAll(/[\s\p{Cc}\p{Bidi_Control}]/gu, encodeURIComponent);
  } catch {
    return url;
  }
}

/** A URL, or its beginning, as somebody types or pastes it: as the program writes it. */
export function typedUrl(text: string): string {
  const path = text.replace(/^https?:\/\/[^/]*/i, "");
  try {
    return path.replaceAll(/[^\x21-\x7e]|["<>`{}]/gu, encodeURIComponent);
  } catch {
    return path;
  }
}

/** Where the URL's own page is; undefined where there is no telling. */
export function pageOf(site: string, url: string): string | undefined {
  try {
    const home = new URL(`https://${site}`);
    const page = new URL(url, home);
    return site.includes(".") && page.host === home.host && page.protocol === home.protocol ? page.href : undefined;
  } catch {
    return undefined;
  }
}

/** What is beyond the limit of a dimension counts here, and cannot be filtered by. */
export const OTHER = "(other)";
