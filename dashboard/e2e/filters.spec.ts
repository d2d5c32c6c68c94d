// A click filters; the address bar keeps it; Back takes it away again.

import { expect, test } from "@playwright/test";
import { Dashboard } from "./dashboard";
import { World } from "./world";

let world: World;

test.beforeAll(async () => {
  world = await World.single();
  // /a: 6 views, 4 of them from DE, 3 by way of news.example; /b: 3 views, all from FR, by way of search.example.
  const a = Array.from({ length: 6 }, (_, n) => ({
    url: "/a",
    visitor: `a${n}`,
    dimensions: { country: n < 4 ? "DE" : "FR", referrer: n < 3 ? "news.example" : "search.example", device: "mobile" },
  }));
  const b = Array.from({ length: 3 }, (_, n) => ({
    url: "/b",
    visitor: `b${n}`,
    dimensions: { country: "FR", referrer: "search.example", device: "desktop" },
  }));
  await world.send([...a, ...b]);
});
test.afterAll(() => world.end());

test("a click on a referrer or country filters by it, and the address bar keeps it", async ({ page }) => {
  const dashboard = await Dashboard.open(page, world);
  await expect(dashboard.viewsOf("/a")).toHaveText("6");

  await dashboard.entry("news.example").click();
  await expect(dashboard.chip("news.example")).toBeVisible();
  await expect(page).toHaveURL(/referrer.*news\.example/);
  await expect(dashboard.viewsOf("/a")).toHaveText("3");
  await expect(dashboard.viewsOf("/b")).toHaveCount(0);

  // As a link that somebody was sent.
  await page.reload();
  await expect(dashboard.viewsOf("/a")).toHaveText("3");

  await page.goBack();
  await expect(dashboard.chip("news.example")).toHaveCount(0);
  await expect(dashboard.total()).toHaveText("9");
  await expect(dashboard.viewsOf("/a")).toHaveText("6");
  await dashboard.entry("DE").click();
  await expect(dashboard.viewsOf("/a")).toHaveText("4");
  await expect(dashboard.viewsOf("/b")).toHaveCount(0);
});

test("a URL is filtered by, and its chip takes the filter away", async ({ page }) => {
  const dashboard = await Dashboard.open(page, world);
  await expect(dashboard.total()).toHaveText("9");
  await page.getByRole("button", { name: "Filter by /b" }).click();
  await expect(page).toHaveURL(/where\.url=\/b/);
  await expect(dashboard.total()).toHaveText("3");
  await dashboard.chip("/b").click();
  await expect(dashboard.chip("/b")).toHaveCount(0);
  await expect(dashboard.total()).toHaveText("9");
});

test("a URL has a page of its own, and Back returns", async ({ page }) => {
  const dashboard = await Dashboard.open(page, world);
  await dashboard.mark();
  await dashboard.openUrl("/b");
  await dashboard.expectUrlView("/b");
  await page.goBack();
  await expect(dashboard.viewsOf("/a")).toHaveText("6");
  await dashboard.expectMarked();
});
