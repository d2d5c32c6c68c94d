// Send events from a file, ask, and watch: node example.js send|query|watch ...
//
// Events are lines of JSON, such as
// {"site": "example.com", "url": "/a", "visitor": "v1", "timeMs": 1700000000000, "dimensions": {"device": "mobile"}}

import { createHash, randomBytes } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { Analytics, Ingest, Outcome, ask, batchesOf, connect, plain, send, subscribe } from "./tidemark-client.js";

const USAGE = `node example.js send FILE [--node URL] [--state FILE]
node example.js query|watch --site SITE [--at URL] [--since -1h] [--by url] [--measure views,visitors] [--top 10] [--every-ms 1000]
--ca FILE (or TIDEMARK_CA) is the certificate authority to trust with https; a token is read from TIDEMARK_TOKEN.`;
// Batches that are on their way together.
const TOGETHER = 16;

// Sends a file. What it needs to be the same sender again is in the file's state, so running it twice counts once.
async function sendFile(file, options) {
  const statePath = options.state ?? `${file}.state`;
  const text = readFileSync(file, "utf8");
  const sha256 = createHash("sha256").update(text).digest("hex");
  let state = { producer: randomBytes(16).toString("hex"), sealedAtMs: Date.now(), sha256 };
  if (existsSync(statePath)) {
    state = JSON.parse(readFileSync(statePath, "utf8"));
    // Other events under the numbers of these would be taken for copies of them, and not count.
    if (state.sha256 !== sha256) throw new Error(`${file} is another file than the one that ${statePath} is about: give it another name`);
  } else {
    // Before anything is sent: otherwise a crash in between would make a second sender.
    writeFileSync(statePath, JSON.stringify(state));
  }
  const events = text.split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line));
  const batches = [...batchesOf(events, Buffer.from(state.producer, "hex"), 1, state.sealedAtMs)];
  const [ingest, outcome] = [connect(Ingest, options.node, options.ca), new Outcome()];
  for (let at = 0; at < batches.length; at += TOGETHER) await send(ingest, batches.slice(at, at + TOGETHER), { outcome });
  ingest.close();

  const rejected = Object.values(outcome.rejected).reduce((sum, count) => sum + count, 0);
  console.log(`${outcome.accepted} accepted, ${outcome.duplicate} of them sent before, ${rejected} rejected`);
  for (const { seq, index, reason } of outcome.rejectedAt) console.log(`rejected: event ${index} of batch ${seq}: ${reason}`);
  for (const [name, count] of Object.entries(outcome.ignored)) {
    console.log(`the schema has no "${name}", which ${count} events have: they count without it`);
  }
  for (const { seq, reason, message } of outcome.refused) console.log(`refused: batch ${seq}: ${reason}: ${message}`);
  if (outcome.refused.length > 0) process.exitCode = 1;
}

const questionOf = (options) => ({
  site: options.site, from: options.since, groupBy: options.by ? options.by.split(",") : [], measures: options.measure.split(","),
  limit: Number(options.top),
});

function show({ columns, rows, facts }) {
  console.log(columns.join("  "));
  for (const row of rows) console.log(row.map((value) => value ?? "-").join("  "));
  const missing = facts.missing.map(({ node, reason }) => `${node}: ${reason}`).join("; ");
  console.log(facts.complete ? "complete" : `PARTIAL: ${missing}`);
}

const text = (value) => ({ type: "string", default: value });
const { positionals, values: options } = parseArgs({
  allowPositionals: true,
  options: {
    ca: { type: "string" }, state: { type: "string" }, site: { type: "string" }, node: text("http://127.0.0.1:7100"),
    at: text("http://127.0.0.1:8100"), since: text("-1h"), by: text("url"), measure: text("views,visitors"), top: text("10"),
    "every-ms": text("1000"),
  },
});
const [command, file] = positionals;
if (command === "send" && file) {
  await sendFile(file, options);
} else if (command === "query" && options.site) {
  const analytics = connect(Analytics, options.at, options.ca);
  const answer = await ask(analytics, questionOf(options));
  show({ ...answer, rows: answer.rows.map(plain) });
  analytics.close();
} else if (command === "watch" && options.site) {
  const analytics = connect(Analytics, options.at, options.ca);
  for await (const answer of subscribe(analytics, questionOf(options), { everyMs: Number(options["every-ms"]) })) show(answer);
} else {
  console.error(USAGE);
  process.exitCode = 2;
}
