// Runs the example against a real node, and what passes by chance there against a made-up one: npm test
//
// The program is the one that TIDEMARK_PROGRAM names, otherwise the one in target/.

import assert from "node:assert/strict";
import { execFile, execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, beforeEach, suite, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import { Analytics, Ingest, ask, batchesOf, classOf, connect, credentials, plain, send, subscribe } from "./tidemark-client.js";

const HERE = fileURLToPath(new URL(".", import.meta.url));
// How long anything may take on a loaded machine.
const PATIENCE = { timeout: 60_000 };

function program() {
  const built = ["debug", "release"].map((kind) => join(HERE, "../../../target", kind, "tidemark"));
  const found = process.env.TIDEMARK_PROGRAM ?? built.find((path) => existsSync(path));
  assert.ok(found, "there is no tidemark in target/: run cargo build, or name one with TIDEMARK_PROGRAM");
  return found;
}

// A node that answers queries too, on ports that the system picks.
async function startNode(folder) {
  const addresses = ["node", "--single", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data", join(folder, "data")];
  const child = spawn(program(), addresses, { stdio: ["ignore", "ignore", "pipe"] });
  const found = {};
  for await (const line of createInterface({ input: child.stderr })) {
    const address = line.match(/address=(\S+)/)?.[1];
    if (line.includes("the node serves")) found.node = `http://${address}`;
    if (line.includes("coordinator is listening")) found.coordinator = `http://${address}`;
    if (found.node && found.coordinator) break;
  }
  assert.ok(found.coordinator, "the node did not say where it is");
  // Whoever logs must not block on a full pipe.
  child.stderr.resume();
  const ended = new Promise((resolve) => child.once("exit", resolve));
  return { ...found, stop: () => (child.kill("SIGTERM"), ended) };
}

const example = (...words) => promisify(execFile)(process.execPath, [join(HERE, "example.js"), ...words], PATIENCE);

suite("against a node", PATIENCE, () => {
  let folder, node;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), "tidemark-"));
    node = await startNode(folder);
  });
  after(async () => {
    await node?.stop();
    rmSync(folder, { recursive: true });
  });

  test("a file that is sent twice counts once", async () => {
    const [path, timeMs] = [join(folder, "events.jsonl"), Date.now()];
    const lines = Array.from({ length: 25_000 }, (_, number) =>
      JSON.stringify({ site: "example.com", url: `/${number % 3}`, visitor: `v${number % 100}`, timeMs }));
    lines.push(JSON.stringify({ site: "example.com", url: "", timeMs }));
    lines.push(JSON.stringify({ site: "example.com", url: "/0", dimensions: { mood: "good" } }));
    writeFileSync(path, lines.join("\n") + "\n");
    const first = (await example("send", path, "--node", node.node)).stdout;
    assert.match(first, /^25001 accepted, 0 of them sent before, 1 rejected$/m);
    assert.match(first, /^rejected: event \d+ of batch \d+: missing_url$/m);
    assert.match(first, /the schema has no "mood", which 1 events have/);
    const again = (await example("send", path, "--node", node.node)).stdout;
    assert.match(again, /25001 accepted, 25001 of them sent before/);

    const answer = (await example("query", "--at", node.coordinator, "--site", "example.com")).stdout.trim().split("\n");
    assert.equal(answer[0], "url  views  visitors");
    assert.deepEqual(answer.slice(1, 4).map((row) => row.split("  ").slice(0, 2)), [["/0", "8335"], ["/1", "8333"], ["/2", "8333"]]);
    assert.deepEqual(answer.slice(4), ["complete"]);

    appendFileSync(path, `${lines[0]}\n`);
    await assert.rejects(example("send", path, "--node", node.node), /is another file/);
  });

  test("a subscriber sees what is counted", async () => {
    const [ingest, analytics] = [connect(Ingest, node.node), connect(Analytics, node.coordinator)];
    const [producer, query] = [randomBytes(16), { site: "live.example", measures: ["views"], groupBy: ["url"] }];
    const answers = subscribe(analytics, query, { everyMs: 100 });
    let { rows, facts } = (await answers.next()).value;
    assert.deepEqual([rows, facts.complete], [[], true]);
    for (const [index, [url, count]] of [["/a", 3], ["/b", 5], ["/a", 4]].entries()) {
      const events = Array(count).fill({ site: "live.example", url });
      const outcome = await send(ingest, batchesOf(events, producer, index + 1, Date.now()));
      assert.deepEqual([outcome.accepted, outcome.duplicate], [count, 0]);
    }
    const expected = JSON.stringify([["/a", 7], ["/b", 5]]);
    while (JSON.stringify(rows) !== expected) ({ rows, facts } = (await answers.next()).value);
    assert.ok(facts.complete);
    assert.deepEqual((await ask(analytics, query)).rows.map(plain), rows);
    await answers.return();
    ingest.close();
    analytics.close();
  });

  test("a question that cannot be is not asked again", async () => {
    const analytics = connect(Analytics, node.coordinator);
    const asked = ask(analytics, { site: "live.example", measures: ["nonsense"] });
    await assert.rejects(asked, { code: grpc.status.INVALID_ARGUMENT });
    analytics.close();
  });
});

// Does to each call, and to each batch, what comes next in its list; then all is well.
class Moody {
  calls = [];
  batches = [];
  seen = [];
  tokens = [];
  subscribed = [];

  // The error that the call ends with, if any.
  begin(metadata) {
    this.tokens.push(metadata.get("authorization")[0]);
    const code = this.calls.shift();
    if (!code) return undefined;
    const told = new grpc.Metadata();
    if (code === grpc.status.RESOURCE_EXHAUSTED) told.set("grpc-retry-pushback-ms", "30");
    return { code, details: "events/s of the site: 120 of 100", metadata: told };
  }

  service = {
    SendRows: (call) => {
      const error = this.begin(call.metadata);
      if (error) return call.emit("error", error);
      call.on("data", ({ producer, seq, sealedAtMs, events }) => {
        if (call.writableEnded) return;
        this.seen.push([producer.toString(), seq, sealedAtMs, events.length]);
        const mood = this.batches.shift();
        if (mood === "end") return call.end();
        const refused = mood && { reason: mood[0], retryAfterMs: mood[1], message: "why" };
        call.write({ producer, seq, accepted: mood ? 0 : events.length, refused });
      });
      call.on("end", () => call.end());
    },
    Query: (call, reply) => reply(this.begin(call.metadata), { columns: ["views"], facts: { complete: true } }),
    Subscribe: (call) => {
      const error = this.begin(call.metadata);
      if (error) return call.emit("error", error);
      this.subscribed.push(call.request.subscriptions[0].resume);
      call.write(this.batches.shift());
      call.end();
    },
  };
}

function serve(moody, keys) {
  const server = new grpc.Server();
  const { SendRows, Query, Subscribe } = moody.service;
  server.addService(Ingest.service, { SendRows });
  server.addService(Analytics.service, { Query, Subscribe });
  return new Promise((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", keys, (error, port) => (error ? reject(error) : resolve({ server, port })));
  });
}

suite("against moods", PATIENCE, () => {
  let moody, server, ingest, analytics;
  const events = Array(25_000).fill({ site: "example.com", url: "/" });
  const batches = [...batchesOf(events, Buffer.from("sixteen bytes id"), 7, 1_700_000_000_000)];

  beforeEach(async () => {
    moody = new Moody();
    const started = await serve(moody, grpc.ServerCredentials.createInsecure());
    server = started.server;
    ingest = connect(Ingest, `http://127.0.0.1:${started.port}`);
    analytics = connect(Analytics, `http://127.0.0.1:${started.port}`);
  });

  const closing = (name, body) => test(name, async () => {
    try {
      await body();
    } finally {
      ingest.close();
      analytics.close();
      server.forceShutdown();
    }
  });

  closing("what is refused for now is sent again as it was and after the delay", async () => {
    assert.deepEqual(batches.map(({ seq }) => seq), batches.map((_, index) => 7 + index));
    moody.batches = [undefined, ["REFUSAL_REASON_OVERLOADED", 300]];
    const began = performance.now();
    const outcome = await send(ingest, batches);
    assert.ok(performance.now() - began >= 299);
    assert.deepEqual([outcome.accepted, outcome.repeats, outcome.refused], [25_000, 1, []]);
    assert.deepEqual(moody.seen.map(([, seq]) => seq), [...batches.map(({ seq }) => seq), 8]);
    assert.deepEqual(moody.seen.at(-1), moody.seen[1]);
  });

  closing("a stream that breaks or is over a limit goes on with what is not acknowledged", async () => {
    moody.calls = [grpc.status.RESOURCE_EXHAUSTED, grpc.status.UNAVAILABLE];
    moody.batches = [undefined, "end"];
    const outcome = await send(ingest, batches);
    assert.deepEqual([outcome.accepted, outcome.repeats], [25_000, 3 * batches.length - 1]);
    assert.deepEqual(moody.seen.map(([, seq]) => seq), [7, 8, ...batches.slice(1).map(({ seq }) => seq)]);
  });

  closing("what is refused for good is told and not sent again", async () => {
    moody.batches = [["REFUSAL_REASON_BAD_SEAL_TIME", 0]];
    const outcome = await send(ingest, batches);
    assert.deepEqual(outcome.refused, [{ seq: 7, reason: "bad_seal_time", message: "why" }]);
    assert.deepEqual([outcome.accepted, moody.seen.length], [25_000 - batches[0].events.length, batches.length]);
    moody.calls = [grpc.status.PERMISSION_DENIED];
    await assert.rejects(send(ingest, batches), { code: grpc.status.PERMISSION_DENIED });
  });

  closing("it gives up in the end", async () => {
    moody.batches = [["REFUSAL_REASON_OVERLOADED", 60_000]];
    await assert.rejects(send(ingest, batches, { giveUpAfterMs: 1_000 }), /1 batches were not acknowledged within 1000 ms: why/);
  });

  closing("a question waits for as long as it is told, and each call has the token", async () => {
    moody.calls = [grpc.status.RESOURCE_EXHAUSTED, grpc.status.RESOURCE_EXHAUSTED];
    const metadata = credentials("tmk_example");
    const began = performance.now();
    assert.ok((await ask(analytics, { site: "*" }, { metadata })).facts.complete);
    assert.ok(performance.now() - began >= 58);
    await send(ingest, batches, { metadata });
    assert.deepEqual(moody.tokens, Array(4).fill("Bearer tmk_example"));
  });

  closing("a subscription goes on where it was", async () => {
    const row = (text, integer) => ({ values: integer === undefined ? [{ text }] : [{ text }, { integer }] });
    const change = { changed: [{ at: 0, row: row("/b", 10) }], added: [{ at: 2, row: row("/d", 2) }], gone: [row("/c")] };
    const replaced = { of: 355, classes: [classOf("/a\x1f", 355)] };
    moody.batches = [
      { answer: { columns: ["url", "views"], rows: [row("/a", 9), row("/b", 5), row("/c", 1)], facts: {} }, resume: "one" },
      { change: { ...change, facts: {} }, resume: "two" },
      { change: { added: [{ at: 1, row: row("/a", 3) }], replaced, facts: {} }, resume: "three" },
    ];
    moody.calls = [undefined, grpc.status.UNAVAILABLE];
    const answers = subscribe(analytics, { site: "example.com" });
    const seen = [];
    while (seen.length < 3) seen.push((await answers.next()).value.rows);
    await answers.return();
    assert.deepEqual(seen, [
      [["/a", 9], ["/b", 5], ["/c", 1]],
      [["/b", 10], ["/a", 9], ["/d", 2]],
      [["/b", 10], ["/a", 3], ["/d", 2]],
    ]);
    assert.deepEqual(moody.subscribed, ["", "one", "two"]);
  });
});

test("https trusts the authority it is given and nobody else", PATIENCE, async () => {
  const folder = mkdtempSync(join(tmpdir(), "tidemark-"));
  const file = (name) => join(folder, name);
  for (const name of ["right", "wrong"]) {
    const key = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", file(`${name}.key`)];
    const names = ["-out", file(`${name}.crt`), "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"];
    execFileSync("openssl", [...key, ...names], { stdio: "pipe" });
  }
  const pair = { private_key: readFileSync(file("right.key")), cert_chain: readFileSync(file("right.crt")) };
  const { server, port } = await serve(new Moody(), grpc.ServerCredentials.createSsl(null, [pair]));
  const [right, wrong] = ["right.crt", "wrong.crt"].map((ca) => connect(Analytics, `https://127.0.0.1:${port}`, file(ca)));
  assert.ok((await ask(right, { site: "*" })).facts.complete);
  await assert.rejects(ask(wrong, { site: "*" }, { giveUpAfterMs: 500 }));
  for (const client of [right, wrong]) client.close();
  server.forceShutdown();
  rmSync(folder, { recursive: true });
});

test("an address without a scheme is refused", () => {
  assert.throws(() => connect(Ingest, "127.0.0.1:7100"), /is not http/);
});
