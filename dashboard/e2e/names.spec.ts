// What URLs are called, and what people may type for them, without a browser.

import { expect, test } from "@playwright/test";
import { pageOf, readableUrl, typedUrl, valueName } from "../src/parts/names";

test("URLs are read as letters, and what would hide or turn the text stays as it is", () => {
  expect(readableUrl("/%E6%97%A5%E6%9C%AC/%F0%9F%8C%8A?q=a%2Fb")).toBe("/日本/🌊?q=a%2Fb");
  for (const kept of ["/a%20b", "/a%0Ab", "/%E2%80%AEgpj.exe", "/%E6%97", "/100%"]) expect(readableUrl(kept)).toBe(kept);
  expect(valueName("url", "")).toBe("(none)");
});

test("what is typed or pasted is found as the program writes it", () => {
  expect(typedUrl("/日本")).toBe("/%E6%97%A5%E6%9C%AC");
  expect(typedUrl("https://shop.example/a b?c=d")).toBe("/a%20b?c=d");
  for (const kept of ["/a/%E6%97%A5", "/p?x=[1]&y='2'", ""]) expect(typedUrl(kept)).toBe(kept);
  const url = "/%E6%97%A5/%F0%9F%8C%8A";
  expect(typedUrl(readableUrl(url))).toBe(url);
});

test("a link leads to the URL's own site, or there is none", () => {
  expect(pageOf("shop.example", "/a?b=c")).toBe("https://shop.example/a?b=c");
  for (const [site, url] of [
    ["*", "/a"],
    ["localhost", "/a"],
    ["shop.example", "//evil.example/a"],
    ["shop.example", "https://evil.example/a"],
    ["shop.example", "javascript:alert(1)"],
  ] as const) {
    expect(pageOf(site, url), `${site} ${url}`).toBeUndefined();
  }
});
