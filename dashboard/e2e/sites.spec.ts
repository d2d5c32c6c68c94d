// Sites without events, and a coordinator that refuses.

import { expect, test } from "@playwright/test";
import { Dashboard } from "./dashboard";
import { World } from "./world";

let world: World;
test.beforeAll(async () => {
  world = await World.single();
  await world.send([{ url: "/a", visitor: "a" }]);
});
test.afterAll(() => world.end());

test("a site without events beside one with some says how to send the first, and goes live", async ({ page }) => {
  const dashboard = await Dashboard.open(page, world);
  await page.goto(world.url("/?site=other.example"));
  await expect(dashboard.curl()).toContainText('"site":"other.example"');
  await expect(page.getByRole("heading", { level: 1 })).toContainText("other.example");
  await dashboard.mark();
  await world.send([{ site: "other.example", url: "/first", visitor: "a" }]);
  await expect(dashboard.viewsOf("/first")).toHaveText("1");
  await dashboard.expectMarked();
});

test("a site that cannot be one is an error, not one that waits for events", async ({ page }) => {
  const dashboard = await Dashboard.open(page, world);
  await page.goto(world.url("/?site=no%20site"));
  await expect(page.getByTestId("error")).toContainText("no site");
  await expect(dashboard.curl()).toHaveCount(0);
});

test("a coordinator that refuses is said to be there, with its reason; it is asked again", async ({ page }) => {
  let refuses = true;
  const headers = { "content-type": "application/grpc-web+proto", "grpc-status": "8", "grpc-message": "too many questions are open" };
  await page.route(/Analytics\/Subscribe/, (route) => (refuses ? route.fulfill({ status: 200, headers, body: "" }) : route.continue()));
  const dashboard = await Dashboard.open(page, world);
  await expect(dashboard.away()).toContainText("does not answer for now");
  await expect(dashboard.away()).toContainText("too many questions are open");
  refuses = false;
  await expect(dashboard.viewsOf("/a")).toHaveText("1");
  await expect(dashboard.away()).toBeHidden();
});
