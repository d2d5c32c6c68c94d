// Numbers move by themselves, and soon enough.

import { expect, test } from "@playwright/test";
import { Dashboard } from "./dashboard";
import { SITE, World } from "./world";
import { setTimeout as pause } from "node:timers/promises";

/** How many events are timed for each cadence. */
const PROBES = 110;

let world: World;

test.beforeAll(async () => {
  world = await World.single();
  await world.send([{ url: "/first", visitor: "a" }]);
});
test.afterAll(() => world.end());

test("numbers move while events are sent, without a reload", async ({ page }) => {
  const dashboard = await Dashboard.open(page, world);
  await expect(dashboard.viewsOf("/first")).toHaveText("1");
  await dashboard.mark();
  for (let sent = 1; sent <= 5; sent++) {
    await world.send([{ url: "/first", visitor: `b${sent}` }]);
    await expect(dashboard.viewsOf("/first")).toHaveText(String(sent + 1));
  }
  await world.send([{ url: "/second", visitor: "a" }]);
  await expect(dashboard.viewsOf("/second")).toHaveText("1");
  await dashboard.expectMarked();
});

test.describe("what was acknowledged shows soon", () => {
  // What else the machine does is in the times, too.
  test.describe.configure({ retries: 2 });

  for (const { cadence, query, within } of [
    { cadence: "the usual cadence", query: "", within: 1_000 },
    { cadence: "every=100ms", query: "&every=100", within: 250 },
  ]) {
    test(`an acknowledged event shows within ${within} ms at ${cadence}`, async ({ page }) => {
      const url = `/probe${within}`;
      await world.send([{ url, visitor: "first" }]);
      const dashboard = await Dashboard.open(page, world, query);
      await expect(dashboard.viewsOf(url)).toHaveText("1");
      await dashboard.recordViewsOf(url);

      const acknowledged: number[] = [];
      for (let probe = 0; probe < PROBES; probe++) {
        acknowledged.push(await world.send([{ url, visitor: `v${probe}` }]));
        // Prime, so that probes fall everywhere between two updates.
        await pause(67 + (probe % 11) * 13);
      }
      await expect(dashboard.viewsOf(url)).toHaveText(String(PROBES + 1));

      const changes = await dashboard.changes();
      const delays = acknowledged.map((at, probe) => {
        const shown = changes.find((change) => change.number >= probe + 2);
        return Math.max(0, (shown?.at ?? Number.POSITIVE_INFINITY) - at);
      });
      delays.sort((a, b) => a - b);
      const p = (share: number) => Math.round(delays[Math.ceil(delays.length * share) - 1] ?? Number.NaN);
      console.log(`${SITE}: shown at ${cadence} after p50 ${p(0.5)} ms, p99 ${p(0.99)} ms, at most ${p(1)} ms of ${PROBES}`);
      expect(p(0.99)).toBeLessThan(within);
    });
  }
});
