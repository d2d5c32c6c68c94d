// Nodes and coordinators that go away: the dashboard says so, and goes on when they are back.

import { expect, test } from "@playwright/test";
import { Dashboard } from "./dashboard";
import { World } from "./world";

test("a partial answer says which node is missing", async ({ page }) => {
  const world = await World.of(2, 1);
  try {
    await world.send(Array.from({ length: 40 }, (_, n) => ({ url: `/${n}`, visitor: `${n}` })));
    const dashboard = await Dashboard.open(page, world);
    await expect(dashboard.rows()).not.toHaveCount(0);
    await expect(dashboard.partial()).toBeHidden();
    await world.kill("n1");
    await expect(dashboard.partial()).toContainText("n1");
    await world.start("n1");
    await expect(dashboard.partial()).toBeHidden();
  } finally {
    await world.end();
  }
});

test.describe("with two owners for each shard", () => {
  let world: World;
  test.beforeAll(async () => {
    world = await World.of(3, 2);
    await world.send([{ url: "/a", visitor: "a" }]);
  });
  test.afterAll(() => world.end());

  test("a coordinator that goes is said to be away; when it is back, numbers go on without a reload", async ({ page }) => {
    const dashboard = await Dashboard.open(page, world);
    await expect(dashboard.viewsOf("/a")).toHaveText("1");
    await dashboard.mark();
    await world.kill("coordinator");
    await expect(dashboard.away()).toBeVisible();
    // What was known stays.
    await expect(dashboard.viewsOf("/a")).toHaveText("1");
    await world.start("coordinator");
    await expect(dashboard.away()).toBeHidden();
    await world.send([{ url: "/a", visitor: "b" }]);
    await expect(dashboard.viewsOf("/a")).toHaveText("2");
    await dashboard.expectMarked();
  });

  test("a node that dies, and heals, is seen in Flow within ten seconds", async ({ page }) => {
    const within = { timeout: 10_000 };
    const dashboard = await Dashboard.open(page, world, "", "flow");
    const node = page.locator('.flow-node[data-node="n2"]');
    const arcs = page.locator(".flow-arc");
    await expect(node).toHaveAttribute("data-state", "active");
    await expect(page.locator(".flow-ring-state")).toContainText("all owners ready");
    expect(await arcs.count()).toBe(2 * 16);
    await expect(page.locator('.flow-arc[data-owner="n2"]')).not.toHaveCount(0);
    await dashboard.mark();

    await world.kill("n2");
    await expect(node).toHaveAttribute("data-state", "missing", within);
    // The survivors have all of its shards.
    await expect(page.locator('.flow-arc[data-owner="n2"]')).toHaveCount(0, within);
    await expect(page.locator(".flow-ring-state")).toContainText("all owners ready", within);
    expect(await arcs.count()).toBe(2 * 16);

    await world.start("n2");
    await expect(node).toHaveAttribute("data-state", "active", within);
    await expect(page.locator('.flow-arc[data-owner="n2"]')).not.toHaveCount(0, within);
    await expect(page.locator(".flow-ring-state")).toContainText("all owners ready", within);
    await dashboard.expectMarked();
  });

  test("each stage of Flow explains itself", async ({ page }) => {
    await Dashboard.open(page, world, "", "flow");
    const stages = page.locator(".flow-card");
    await expect(stages).toHaveCount(8);
    for (const stage of await stages.all()) {
      await stage.click();
      await expect(stage).toHaveAttribute("aria-pressed", "true");
      await expect(page.locator("#flow-stage p")).toHaveText(/\w+.*\./);
      await expect(stage).toContainText(/Fine|Questionable|On fire/);
    }
    const counted = page.locator('[data-stage="counted"] .flow-card-count');
    await expect(counted).toHaveText(/^\d+ events$/);
    const before = Number.parseInt((await counted.innerText()).replaceAll(",", ""), 10);
    await world.send(Array.from({ length: 50 }, (_, n) => ({ url: `/flow/${n}`, visitor: `${n}` })));
    await expect
      .poll(async () => Number.parseInt((await counted.innerText()).replaceAll(",", ""), 10), { timeout: 10_000 })
      .toBeGreaterThanOrEqual(before + 50);
  });
});
