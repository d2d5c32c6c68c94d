// The tracker in a browser: what it tells an edge, and what it does not.
//
// Each test has pages of its own below one path, so that all share one node and one edge.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { chromium } from "playwright-core";
import { PATIENCE_MS, World, until } from "./world.mjs";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"];

let world;
let browser;

before(async () => {
  world = await World.start();
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
});

after(async () => {
  await browser?.close();
  await world?.end();
});

/** Runs `act` with a browser of its own: nothing is stored in it. */
async function visiting(act, prepare) {
  const context = await browser.newContext();
  context.setDefaultTimeout(PATIENCE_MS);
  try {
    if (prepare) await context.addInitScript(prepare);
    await act(await context.newPage(), context);
  } finally {
    await context.close();
  }
}

const stored = (page) => page.evaluate(() => JSON.parse(localStorage.tidemark ?? "[]"));
const counted = (path, views) => until(`${views} views of ${path}`, async () => (await world.sum(path, "views")) === views);

test("a view tells its page, where from, what with, and how long it took to load", async () => {
  await visiting(async (page, context) => {
    await page.goto(`${world.origin}/view/a?utm_campaign=spring&x=1#top`);
    await counted("/view/a", 1);
    await until("nothing is left to be sent", async () => (await stored(page)).length === 0);
    await page.goto(`${world.origin}/view/b`, { referer: "https://www.google.com/search" });
    await counted("/view/b", 1);
    const groups = ["url", "section", "campaign", "channel", "device", "browser"];
    const rows = await world.rows("/view", ["views", "visitors", "load_ms.count", "load_ms.max"], groups);
    const [a, b] = rows.sort((one, other) => one[0].localeCompare(other[0]));
    assert.deepEqual(a.slice(0, 4), [`${world.origin}/view/a`, "news", "spring", "direct"]);
    assert.equal(b[3], "search");
    assert.deepEqual(a.slice(6, 9), [1, 1, 1]);
    assert.ok(a[9] > 0 && a[9] < PATIENCE_MS, `${a[9]} ms`);
    assert.deepEqual(await context.cookies(), []);
  });
});

test("there is no cookie on any way", async () => {
  await visiting(async (page, context) => {
    await context.addCookies([{ name: "of-the-edge", value: "1", url: world.edgeUrl("/") }]);
    const seen = [];
    page.on("response", async (reply) => seen.push([reply.url(), await reply.request().allHeaders(), await reply.allHeaders()]));
    await page.goto(`${world.origin}/cookies`);
    await counted("/cookies", 1);
    const ofPosts = () => seen.filter(([url]) => url.endsWith("/v1/collect"));
    await until("the reply to a post is seen", async () => ofPosts().length > 0);
    const posts = ofPosts();
    for (const [url, sent, got] of seen) assert.equal(got["set-cookie"], undefined, url);
    for (const [url, sent] of posts) assert.equal(sent["cookie"], undefined, url);
    assert.equal(await page.evaluate(() => document.cookie), "of-the-edge=1", "nobody added one");
  });
});

test("an app of one page has a view for each of its addresses", async () => {
  await visiting(async (page) => {
    await page.goto(`${world.origin}/app/a`);
    await page.evaluate(() => {
      history.pushState({}, "", "/app/b?page=2");
      history.replaceState({ scroll: 1 }, "", "/app/b?page=2");
      history.replaceState({}, "", "/app/b?page=2#part");
      history.pushState({}, "", "/app/c");
    });
    await page.goBack();
    await counted("/app", 4);
    const rows = await world.rows("/app", ["views"], ["url", "channel"]);
    const path = (row) => row[0].slice(world.origin.length);
    assert.deepEqual(rows.map((row) => [path(row), row[2]]).sort(), [["/app/a", 1], ["/app/b", 2], ["/app/c", 1]]);
  });
});

test("engaged time is that of somebody who is there and looks", async () => {
  await visiting(async (page) => {
    await page.clock.install();
    await page.goto(`${world.origin}/engaged/a`);
    await page.waitForFunction(() => typeof tidemark === "function");
    // Nobody moves: after half a minute, nobody reads.
    await page.clock.runFor(90_000);
    const told = () => world.sum("/engaged", "engaged_ms");
    await until("the first quarter of a minute is told", async () => (await told()) > 14_000);
    await page.mouse.move(10, 10);
    await page.clock.runFor(10_000);
    // Another tab is in front of it.
    await page.evaluate(() => {
      Object.defineProperty(document, "visibilityState", { configurable: true, get: () => "hidden" });
      document.dispatchEvent(new Event("visibilitychange"));
    });
    await until("what was engaged before is told", async () => (await told()) > 38_000);
    await page.mouse.move(20, 20);
    await page.clock.runFor(30_000);
    await page.evaluate(() => {
      delete document.visibilityState;
      document.dispatchEvent(new Event("visibilitychange"));
      tidemark("look");
    });
    await page.clock.runFor(2_000);
    await page.evaluate(() => history.pushState({}, "", "/engaged/b"));
    await page.clock.runFor(2_000);
    await counted("/engaged/b", 1);
    const total = await told();
    assert.ok(total >= 40_000 && total < 48_000, `${total} ms`);
  });
});

test("what happens offline is sent when the browser is back, once", async () => {
  await visiting(async (page, context) => {
    await page.goto(`${world.origin}/offline/a`);
    await counted("/offline/a", 1);
    await context.setOffline(true);
    await page.evaluate(() => history.pushState({}, "", "/offline/b"));
    await until("it is stored", async () => (await stored(page)).some((post) => post.events.some((event) => event.kind === "view")));
    await page.evaluate(() => history.pushState({}, "", "/offline/c"));
    await context.setOffline(false);
    await counted("/offline", 3);
    await until("nothing is left", async () => (await stored(page)).length === 0);
    assert.equal(await world.sum("/offline", "views"), 3);
  });
});

test("what a closed page could not send the next one sends", async () => {
  await visiting(async (page, context) => {
    await page.goto(`${world.origin}/closed/a`);
    await counted("/closed/a", 1);
    await context.setOffline(true);
    await page.evaluate(() => {
      history.pushState({}, "", "/closed/b");
      tidemark("share");
    });
    await page.close();
    await context.setOffline(false);
    await (await context.newPage()).goto(`${world.origin}/closed/c`);
    await counted("/closed", 3);
    assert.equal(await world.sum("/closed", "shares"), 1);
  });
});

test("a post whose reply is lost counts once", async () => {
  await visiting(async (page, context) => {
    let lost = 0;
    await context.route("**/v1/collect", async (route) => {
      if (lost++ > 0) return route.continue();
      await route.fetch();
      await route.abort();
    });
    await page.goto(`${world.origin}/lost`);
    await counted("/lost", 1);
    await until("the post waits", async () => (await stored(page)).some((post) => post.sent === 0));
    await page.evaluate(() => window.dispatchEvent(new Event("online")));
    await until("it was sent again", async () => lost > 1 && (await stored(page)).length === 0);
    assert.equal(await world.sum("/lost", "views"), 1);
  });
});

test("who leaves at once was there", async () => {
  await visiting(async (page) => {
    await page.goto(`${world.origin}/left/a`, { waitUntil: "commit" });
    await page.waitForFunction(() => typeof tidemark === "function");
    await page.goto(`${world.origin}/left/b`);
    await counted("/left/a", 1);
    await counted("/left/b", 1);
  });
});

for (const [name, prepare] of [
  ["Do Not Track", () => Object.defineProperty(Navigator.prototype, "doNotTrack", { get: () => "1" })],
  ["Global Privacy Control", () => Object.defineProperty(Navigator.prototype, "globalPrivacyControl", { get: () => true })],
]) {
  test(`of who asks for it by ${name} nothing is sent and nothing is stored`, async () => {
    await visiting(async (page) => {
      const posts = [];
      page.on("request", (request) => request.url().endsWith("/v1/collect") && posts.push(request.url()));
      await page.goto(`${world.origin}/calls/not-tracked`);
      await page.waitForFunction(() => document.readyState === "complete" && !tidemark.q);
      await page.evaluate(() => {
        history.pushState({}, "", "/calls/not-tracked/b");
        tidemark("share");
      });
      await pause(1_500);
      await page.goto(`${world.origin}/calls/not-tracked/c`);
      await page.waitForFunction(() => document.readyState === "complete");
      assert.deepEqual(posts, []);
      assert.equal(await page.evaluate(() => localStorage.length), 0);
      assert.equal(await world.sum("/calls/not-tracked", "views"), 0);
    }, prepare);
  });
}

test("a page tells events of its own, also before the tracker is there", async () => {
  await visiting(async (page) => {
    await page.goto(`${world.origin}/calls/own`);
    await page.waitForFunction(() => !tidemark.q);
    await page.evaluate(() => tidemark("share", { dimensions: { channel: "chat" }, values: { bytes: 7 } }));
    await until("two shares", async () => (await world.sum("/calls/own", "shares")) === 2);
    const rows = await world.rows("/calls/own", ["shares", "bytes"], ["channel"]);
    const shares = rows.filter((row) => row[1] > 0).sort();
    assert.deepEqual(shares, [["chat", 1, 7], ["letter", 1, 0]]);
  });
});
