// The dashboard as tests see it: where things are on the page.
//
// With TIDEMARK_E2E_ASSETS, the folder of a `vite build`, that is tested in place of what the program has built in.

import { join } from "node:path";
import { type Locator, type Page, expect } from "@playwright/test";
import { SITE, type World } from "./world";

export const VIEWS = ["now", "url", "flow"] as const;
export type View = (typeof VIEWS)[number];

/** What is in the page's window for tests. */
interface Window {
  marked?: boolean;
  changes?: Change[];
}

/** A number that came to be shown, and when, by the machine's clock. */
export interface Change {
  number: number;
  at: number;
}

const ASSETS = process.env["TIDEMARK_E2E_ASSETS"];
const IS_ASSET = ({ pathname }: URL) => pathname === "/" || pathname.startsWith("/assets/");

function assetOf(url: string): string {
  const { pathname } = new URL(url);
  return join(ASSETS ?? "", pathname === "/" ? "index.html" : pathname);
}

/** Has the page come from the folder that is to be tested, if that is to be. */
export async function useAssets(page: Page): Promise<void> {
  if (ASSETS !== undefined) await page.route(IS_ASSET, (route) => route.fulfill({ path: assetOf(route.request().url()) }));
}

/** More presses of Tab than that lead nowhere. */
const MOST_TABS = 150;

export class Dashboard {
  private constructor(
    private readonly page: Page,
    private readonly view: View,
  ) {}

  /** Opens a view; the URL view is of `/page/1`. */
  static async open(page: Page, world: World, query = "", view: View = "now"): Promise<Dashboard> {
    await useAssets(page);
    const url = view === "url" ? "&url=/page/1" : "";
    await page.goto(world.url(`/?site=${SITE}&view=${view}${url}${query}`));
    return new Dashboard(page, view);
  }

  /** Waits until the view shows numbers. */
  async settled(): Promise<void> {
    const shown = this.view === "flow" ? this.page.locator(".flow-ring") : this.page.getByTestId("facts");
    await expect(shown).toBeVisible();
    await expect(this.page.getByTestId("connection")).toHaveAttribute("data-state", "connected");
    if (this.view !== "flow") await expect(this.page.locator(".uplot").first()).toBeVisible();
  }

  rows(): Locator {
    return this.page.getByTestId("url-row");
  }

  private row(url: string): Locator {
    return this.page.locator(`[data-testid="url-row"][data-url="${url}"]`);
  }

  viewsOf(url: string): Locator {
    return this.row(url).getByTestId("views");
  }

  total(): Locator {
    return this.page.getByTestId("total-views");
  }

  /** A referrer, country or device in its table. */
  entry(value: string): Locator {
    return this.page.locator(`[data-testid="entry"][data-value="${value}"]`);
  }

  chip(value: string): Locator {
    return this.page.locator(`[data-testid="chip"][data-value="${value}"]`);
  }

  partial(): Locator {
    return this.page.getByTestId("partial");
  }

  away(): Locator {
    return this.page.getByTestId("away");
  }

  curl(): Locator {
    return this.page.getByTestId("curl");
  }

  async openUrl(url: string): Promise<void> {
    await this.row(url).getByTestId("url-link").click();
  }

  async expectUrlView(url: string): Promise<void> {
    await expect(this.page.getByTestId("url-view")).toHaveAttribute("data-url", url);
    await expect(this.page.getByRole("heading", { level: 1 })).toHaveText(url);
  }

  /** Leaves a mark that a reload would take away. */
  async mark(): Promise<void> {
    await this.page.evaluate(() => ((window as Window).marked = true));
  }

  async expectMarked(): Promise<void> {
    expect(await this.page.evaluate(() => (window as Window).marked), "the page was loaded again").toBe(true);
  }

  /** Presses Tab until this has the focus. */
  async tabTo(target: Locator): Promise<void> {
    for (let pressed = 0; pressed < MOST_TABS; pressed++) {
      if (await target.evaluate((element) => element === document.activeElement)) return;
      await this.page.keyboard.press("Tab");
    }
    throw new Error(`${MOST_TABS} presses of Tab do not lead there`);
  }

  /** Writes down each number of views that is shown for a URL from now on. */
  async recordViewsOf(url: string): Promise<void> {
    await this.page.getByTestId("table-url").evaluate((table, url) => {
      const changes: Change[] = [];
      (window as Window).changes = changes;
      const look = () => {
        const row = [...table.querySelectorAll<HTMLElement>("[data-url]")].find((row) => row.dataset["url"] === url);
        const number = Number((row?.querySelector("[data-testid=views]")?.textContent ?? "").replaceAll(",", ""));
        if (number !== changes.at(-1)?.number) changes.push({ number, at: Date.now() });
      };
      new MutationObserver(look).observe(table, { subtree: true, childList: true, characterData: true });
    }, url);
  }

  changes(): Promise<Change[]> {
    return this.page.evaluate(() => (window as Window).changes ?? []);
  }

  /** Clicks this value in its table: how many milliseconds later its filter is painted. */
  timeToChip(value: string): Promise<number> {
    return this.page.evaluate(async (value) => {
      const frame = () => new Promise(requestAnimationFrame);
      const started = performance.now();
      document.querySelector<HTMLElement>(`[data-testid="entry"][data-value="${value}"]`)?.click();
      while (!document.querySelector(`[data-testid="chip"][data-value="${value}"]`)) {
        if (performance.now() - started > 10_000) break;
        await frame();
      }
      // The first callback is before it is painted, the second one after.
      await frame();
      await frame();
      return performance.now() - started;
    }, value);
  }
}
