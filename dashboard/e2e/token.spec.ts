// A coordinator that wants a token: the dashboard asks for one, and ends with it.

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "@playwright/test";
import { useAssets } from "./dashboard";
import { Process, SITE, freeAddress, until } from "./world";

const program = process.env["TIDEMARK_PROGRAM"] ?? "";

test("the dashboard asks for a token, shows its site with it, and asks again when it is revoked", async ({ page }) => {
  const folder = mkdtempSync(join(tmpdir(), "tidemark-token-"));
  const tokens = join(folder, "tokens.toml");
  const make = (site: string, scope: string) =>
    execFileSync(program, ["token", "make", "--tokens", tokens, "--site", site, "--scope", scope], { encoding: "utf8" }).trim();
  const [ours, sending] = [make(SITE, "query"), make("*", "ingest")];
  const [listen, http] = [await freeAddress(), await freeAddress()];
  const node = await Process.start(
    ["node", "--single", "--listen", listen, "--http", http, "--data", join(folder, "data"), "--tokens", tokens],
    "coordinator is listening",
  );
  try {
    await until("events are taken", async () => {
      const body = JSON.stringify([{ site: SITE, url: "/a" }, { site: "other.example", url: "/b" }]);
      const sent = await fetch(`http://${http}/v1/events`, { method: "POST", headers: { authorization: `Bearer ${sending}` }, body });
      return sent.ok;
    });
    await useAssets(page);
    await page.goto(`http://${http}/`);
    const dialog = page.getByTestId("sign-in");
    await expect(dialog).toBeVisible();
    await page.getByRole("textbox", { name: "Token" }).fill("tmk_wrong");
    await page.getByRole("button", { name: "Use it" }).click();
    await expect(dialog).toContainText("not known");
    await page.getByRole("textbox", { name: "Token" }).fill(ours);
    await page.getByRole("button", { name: "Use it" }).click();
    await expect(page.locator("body")).toContainText(SITE);
    await expect(page.locator("body")).toContainText("/a");
    await expect(dialog).toBeHidden();
    await expect(page.locator("body")).not.toContainText("other.example");

    execFileSync(program, ["token", "revoke", "--tokens", tokens, ours.split("_")[1] ?? ""]);
    await expect(dialog).toBeVisible();
    await expect(dialog).toContainText("revoked");
  } finally {
    await node.kill();
    rmSync(folder, { recursive: true, force: true });
  }
});
