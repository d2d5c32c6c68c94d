// Clusters of real processes for browser tests.
//
// Owns: starting, killing and restarting members, on ports that the system picks, and talking to them as producers do.
// Does not own: pages, and what is asserted (*.spec.ts).

import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

/** How long a test waits for what must come. */
export const PATIENCE_MS = 30_000;

const NODE_READY = "the node serves";
const COORDINATOR_READY = "coordinator is listening";
const PORT_TAKEN = "another program has it";

/** An event as `POST /v1/events` takes it. */
export interface Event {
  site?: string;
  url: string;
  visitor?: string;
  time?: string | number;
  kind?: string;
  dimensions?: Record<string, string>;
  values?: Record<string, number>;
}

/** The site of all tests. */
export const SITE = "example.com";

/** Waits until `condition` gives something, and returns it. */
export async function until<T>(what: string, condition: () => Promise<T | undefined | false>, within = PATIENCE_MS): Promise<T> {
  const deadline = performance.now() + within;
  for (;;) {
    const met = await condition();
    if (met !== undefined && met !== false) return met;
    if (performance.now() > deadline) throw new Error(`still not after ${within} ms: ${what}`);
    await pause(25);
  }
}

/** A running command of the program. */
export class Process {
  private constructor(
    private readonly child: ChildProcess,
    private readonly logged: string[],
  ) {}

  /** Starts the program and waits until it logs `ready`. */
  static async start(args: string[], ready: string): Promise<Process> {
    const program = process.env["TIDEMARK_PROGRAM"];
    if (!program) throw new Error("TIDEMARK_PROGRAM names no program: run `cargo test -p tidemark-tests --test dashboard`");
    const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
    const logged: string[] = [];
    const started = new Process(child, logged);
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      logged.push(text);
      // What went wrong is in the newest lines.
      if (logged.length > 500) logged.splice(0, 250);
    });
    try {
      await until(`${args.join(" ")} logs ${ready}`, async () => {
        if (child.exitCode !== null) throw new Error(logged.join(""));
        return started.said(ready);
      });
    } catch (error) {
      await started.kill();
      throw new Error(`${String(error)}\n${logged.join("")}`);
    }
    return started;
  }

  private said(what: string): boolean {
    return this.logged.join("").includes(what);
  }

  /** The address in the line that contains `what`. */
  address(what: string): string {
    const line = this.logged
      .join("")
      .split("\n")
      .find((line) => line.includes(what));
    const address = line?.match(/address=(\S+)/)?.[1];
    if (!address) throw new Error(`no address of ${what}`);
    return address;
  }

  /** Kills it at once, and waits until it is gone. */
  async kill(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const gone = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.kill("SIGKILL");
    await gone;
  }
}

/** Members, each under the name that it was started by. */
export class World {
  private readonly folder = mkdtempSync(join(tmpdir(), "tidemark-e2e-"));
  private readonly running = new Map<string, Process>();
  private readonly args = new Map<string, string[]>();
  /** The coordinator's address, host:port. */
  http = "";

  /** A node and a coordinator in one process. */
  static async single(): Promise<World> {
    const world = new World();
    const data = join(world.folder, "single");
    const args = ["node", "--single", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data", data];
    const single = await Process.start(args, COORDINATOR_READY);
    world.running.set("single", single);
    world.http = single.address(COORDINATOR_READY);
    return world.ready();
  }

  /** Nodes n0, n1, ... in zones a, b, ..., and a coordinator named `coordinator`. */
  static async of(nodes: number, replication: number): Promise<World> {
    for (let attempt = 0; ; attempt++) {
      const world = new World();
      try {
        await world.startAll(nodes, replication);
        return await world.ready();
      } catch (error) {
        await world.end();
        // Seeds have to be known before anybody listens: somebody else may have taken a port in between.
        if (attempt === 9 || !String(error).includes(PORT_TAKEN)) throw error;
      }
    }
  }

  private async startAll(nodes: number, replication: number): Promise<void> {
    const addresses = await Promise.all(Array.from({ length: nodes + 1 }, () => freeAddress()));
    this.http = addresses[nodes] ?? "";
    const shared = ["--seeds", addresses.slice(0, nodes).join(","), "--replication", String(replication)];
    shared.push("--shards", "16");
    for (let n = 0; n < nodes; n++) {
      const at = ["--id", `n${n}`, "--zone", "abc"[n % 3] ?? "a", "--listen", addresses[n] ?? ""];
      const data = ["--data", join(this.folder, `n${n}`), "--store", join(this.folder, "history")];
      this.args.set(`n${n}`, ["node", ...at, ...data, ...shared]);
    }
    this.args.set("coordinator", ["coordinator", "--id", "coordinator", "--http", this.http, ...shared]);
    await Promise.all([...this.args.keys()].map((member) => this.start(member)));
  }

  /** Starts a member that was killed: same address, same folder. */
  async start(member: string): Promise<void> {
    const args = this.args.get(member);
    if (!args) throw new Error(`no member ${member}`);
    const started = await Process.start(args, args[0] === "node" ? NODE_READY : COORDINATOR_READY);
    this.running.set(member, started);
  }

  /** Kills a member without a word to the others. */
  async kill(member: string): Promise<void> {
    await this.running.get(member)?.kill();
  }

  private async ready(): Promise<this> {
    await until("the coordinator is ready", async () => (await fetch(this.url("/readyz"))).ok);
    return this;
  }

  /** The coordinator's URL of this path. */
  url(path: string): string {
    return `http://${this.http}${path}`;
  }

  /** Sends events; returns when all are acknowledged: when, by this machine's clock. */
  async send(events: Event[]): Promise<number> {
    const body = JSON.stringify(events.map((event) => ({ site: SITE, ...event })));
    return until("events are accepted", async () => {
      const reply = await fetch(this.url("/v1/events"), { method: "POST", body });
      const acknowledged = Date.now();
      const said = (await reply.json()) as { accepted?: number };
      // Refused as a whole while owners come and go; the same again counts once more at most where it was counted in part.
      return reply.ok && said.accepted === events.length ? acknowledged : undefined;
    });
  }

  /** Kills everybody and deletes what they wrote. */
  async end(): Promise<void> {
    await Promise.all([...this.running.values()].map((member) => member.kill()));
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** An address that nobody has at the moment. */
export function freeAddress(): Promise<string> {
  return new Promise((resolve, reject) => {
    const server = createServer().on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      const port = typeof address === "object" && address ? address.port : 0;
      server.close(() => resolve(`127.0.0.1:${port}`));
    });
  });
}
