// A node, an edge and pages with the tracker, for browser tests.
//
// Owns: starting and ending them, on ports that the system picks, and asking the node what was counted.
// Does not own: browsers, and what is asserted (tracker.test.mjs).

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

/** How long a test waits for what must come. */
export const PATIENCE_MS = 30_000;
/** The site of all tests. */
export const SITE = "shop.example";

/** Waits until `condition` gives something, and returns it. */
export async function until(what, condition, within = PATIENCE_MS) {
  const deadline = performance.now() + within;
  for (let last; ; ) {
    last = await condition();
    if (last) return last;
    if (performance.now() > deadline) throw new Error(`still not after ${within} ms: ${what}`);
    await pause(25);
  }
}

/** A command of the program, once it logs `ready`; its address is in that line. */
async function start(args, ready) {
  const child = spawn(process.env.TIDEMARK_PROGRAM, args, { stdio: ["ignore", "ignore", "pipe"] });
  let logged = "";
  child.stderr.setEncoding("utf8").on("data", (text) => (logged += text));
  const line = await until(`${args.join(" ")} says: ${ready}`, async () => {
    if (child.exitCode !== null) throw new Error(logged);
    return logged.split("\n").find((line) => line.includes(ready));
  });
  const kill = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await gone;
  };
  return { kill, address: line.match(/address=(\S+)/)?.[1], logged: () => logged };
}

export class World {
  /** Starts everything. `attributes` are those of the tracker's script. */
  static async start() {
    const world = new World();
    world.folder = mkdtempSync(join(tmpdir(), "tidemark-tracker-"));
    world.pages = createServer((request, reply) => {
      reply.setHeader("content-type", "text/html; charset=utf-8");
      reply.end(world.page(request.url));
    });
    await new Promise((resolve) => world.pages.listen(0, "127.0.0.1", resolve));
    world.origin = `http://127.0.0.1:${world.pages.address().port}`;
    const data = ["--data", join(world.folder, "node"), "--shards", "8"];
    world.node = await start(["node", "--single", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", ...data], "coordinator is listening");
    world.http = world.node.address;
    const nodeAddress = world.node.logged().match(/the node serves.*address=(\S+)/)[1];
    const spool = ["--spool", join(world.folder, "edge"), "--sites", `${SITE}=${world.origin}`];
    world.edge = await start(["edge", "--listen", "127.0.0.1:0", "--to", `http://${nodeAddress}`, ...spool], "the edge is listening");
    await until("the edge is ready", async () => (await fetch(world.edgeUrl("/readyz"))).ok);
    return world;
  }

  async end() {
    await Promise.all([this.edge?.kill(), this.node?.kill()]);
    this.pages?.closeAllConnections();
    await new Promise((resolve) => (this.pages ? this.pages.close(resolve) : resolve()));
    rmSync(this.folder, { recursive: true, force: true });
  }

  edgeUrl(path) {
    return `http://${this.edge.address}${path}`;
  }

  /** A page as others put the tracker on theirs. */
  page(path) {
    const calls = path.startsWith("/calls") ? `<script>window.tidemark = window.tidemark || function () { (tidemark.q = tidemark.q || []).push(arguments); };
      tidemark("share", { dimensions: { channel: "letter" } });</script>` : "";
    return `<!doctype html><meta charset="utf-8"><title>A page</title>${calls}
      <script async src="${this.edgeUrl("/tidemark.js")}" data-site="${SITE}" data-dim-section="news"></script>
      <h1>A page</h1><p>Some text at ${path.replaceAll(/[<&]/g, "")}.</p><a id="next" href="/next">next</a>`;
  }

  /** Rows of a question about pages below `path`. */
  async rows(path, measures, groupBy = ["url"]) {
    const filters = [{ dimension: "url", prefix: this.origin + path }];
    const question = { site: SITE, from: "-1h", measures, groupBy, filters };
    const reply = await fetch(`http://${this.http}/v1/query`, { method: "POST", body: JSON.stringify(question) });
    const answer = await reply.json();
    if (!reply.ok) throw new Error(JSON.stringify(answer));
    return answer.rows;
  }

  /** The sum of one measure over pages below `path`; 0 where there is none. */
  async sum(path, measure) {
    return (await this.rows(path, [measure], ["url"])).reduce((sum, row) => sum + row[1], 0);
  }
}
