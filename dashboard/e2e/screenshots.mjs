// The screenshots of docs/screenshots: each view, in light and dark, wide and on a phone, of a demo that runs.
//
//   node screenshots.mjs [http://127.0.0.1:8100] [folder]
//
// Let the demo run for some minutes before, so that there is something to see.

import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "@playwright/test";

const [at = "http://127.0.0.1:8100", to = join(dirname(fileURLToPath(import.meta.url)), "../../docs/screenshots")] =
  process.argv.slice(2);

/** What is shown, and what has to be there before. */
const VIEWS = {
  now: { path: "/?site=demo.example&range=1h", ready: "[data-testid=facts]" },
  url: { path: "/?view=url&site=demo.example&url=/news/&range=1h", ready: "[data-testid=facts]" },
  flow: { path: "/?view=flow", ready: ".flow-ring" },
};
const SIZES = { wide: { width: 1440, height: 900 }, phone: { width: 390, height: 844 } };

await mkdir(to, { recursive: true });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
});
for (const colorScheme of ["light", "dark"]) {
  for (const [size, viewport] of Object.entries(SIZES)) {
    for (const [view, { path, ready }] of Object.entries(VIEWS)) {
      const page = await browser.newPage({ viewport, colorScheme });
      await page.goto(at + path);
      await page.locator(ready).first().waitFor();
      // Two updates, so that rates and sparklines are there.
      await page.waitForTimeout(4_000);
      await page.screenshot({ path: join(to, `${view}-${colorScheme}-${size}.png`) });
      await page.close();
    }
  }
}
await browser.close();
