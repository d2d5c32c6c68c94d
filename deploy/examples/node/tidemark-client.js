// Tidemark over gRPC: send events as rows, ask, and subscribe.
//
// Copy what you need of it. It has what a careful client does and nothing else:
//
// * a batch keeps its identity (producer id and sequence number) however often it is sent, so it counts once;
// * what is refused for now is sent again, after the delay that the node asks for;
// * what is rejected is told, event by event, and not sent again;
// * a subscription that breaks continues from the answer it has.

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const PROTO = fileURLToPath(new URL("../../../proto/proto", import.meta.url));
// Counts stay below 2^53, up to where JavaScript's numbers are exact.
const LOADED = loadSync(["tidemark/v1/services.proto", "tidemark/v1/live.proto"], {
  includeDirs: [PROTO], keepCase: false, longs: Number, enums: String, defaults: true, arrays: true, oneofs: true,
});
export const { Ingest, Analytics } = grpc.loadPackageDefinition(LOADED).tidemark.v1;

// Well below the 4 MiB and 65,536 events that a batch may have.
const BATCH_BYTES = 1 << 20;
const BATCH_EVENTS = 10_000;
// How long one call may take, and between what milliseconds something is tried again where the other side names no delay.
const CALL_MS = 10_000;
const [FIRST_DELAY_MS, LONGEST_DELAY_MS] = [100, 5_000];
// What passes: everything else would fail again in the same way.
const PASSING = [grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED, grpc.status.RESOURCE_EXHAUSTED];
// Answers may be larger than the 4 MiB that gRPC takes by default.
const OPTIONS = { "grpc.max_receive_message_length": 64 << 20, "grpc.keepalive_time_ms": 20_000 };

// A client of a service at `http://host:port` or `https://host:port`. With https the other side's certificate has to be signed
// by the authorities in the file `ca` (default: TIDEMARK_CA, then those that Node.js knows).
export function connect(Service, address, ca = process.env.TIDEMARK_CA) {
  const [scheme, target] = address.split("://");
  if (scheme === "http" && target) return new Service(target, grpc.credentials.createInsecure(), OPTIONS);
  if (scheme !== "https" || !target) throw new Error(`${address} is not http://host:port or https://host:port`);
  return new Service(target, grpc.credentials.createSsl(ca ? readFileSync(ca) : null), OPTIONS);
}

// The metadata of each call: the token, where there is one.
export function credentials(token = process.env.TIDEMARK_TOKEN) {
  const metadata = new grpc.Metadata();
  if (token) metadata.set("authorization", `Bearer ${token}`);
  return metadata;
}

// How long to wait after `failures` in a row: what the failed call asks for, or else longer each time.
function delayAfter(error, failures) {
  const [asked] = error?.metadata?.get("grpc-retry-pushback-ms") ?? [];
  return asked === undefined ? Math.min(FIRST_DELAY_MS * 2 ** failures, LONGEST_DELAY_MS) : Number(asked);
}

const passes = (error) => PASSING.includes(error.code);
const deadline = () => ({ deadline: Date.now() + CALL_MS });
const wordOf = (name, prefix) => name.slice(prefix.length).toLowerCase();

// An upper bound of an event's size in bytes.
const sizeOf = (event) => Buffer.byteLength(JSON.stringify(event)) + 64;

// Batches of these events: the same events, producer and number make the same batches, which count once.
export function* batchesOf(events, producer, firstSeq, sealedAtMs) {
  let [seq, batch, size] = [firstSeq, [], 0];
  for (const event of events) {
    const eventSize = sizeOf(event);
    if (batch.length > 0 && (size + eventSize > BATCH_BYTES || batch.length === BATCH_EVENTS)) {
      yield { producer, seq, sealedAtMs, events: batch };
      [seq, batch, size] = [seq + 1, [], 0];
    }
    batch.push(event);
    size += eventSize;
  }
  if (batch.length > 0) yield { producer, seq, sealedAtMs, events: batch };
}

// What became of events. An event is accepted, rejected, or part of a batch that was refused for good.
export class Outcome {
  accepted = 0;
  // Of these, events that an earlier copy of their batch had brought.
  duplicate = 0;
  // Reason to number of events, and the first few of them.
  rejected = {};
  rejectedAt = [];
  // Batches that sending again does not help: `{ seq, reason, message }`.
  refused = [];
  // Names of dimensions and values that the schema does not have, to number of events. These events count.
  ignored = {};
  // How often a batch was sent again.
  repeats = 0;

  add(ack) {
    this.accepted += ack.accepted;
    this.duplicate += ack.duplicate;
    for (const { index, reason: name } of ack.rejected) {
      const reason = wordOf(name, "REASON_");
      this.rejected[reason] = (this.rejected[reason] ?? 0) + 1;
      if (this.rejectedAt.length < 20) this.rejectedAt.push({ seq: ack.seq, index, reason });
    }
    for (const { name, events } of ack.ignored) this.ignored[name] = (this.ignored[name] ?? 0) + events;
    if (ack.refused) {
      const reason = wordOf(ack.refused.reason, "REFUSAL_REASON_");
      this.refused.push({ seq: ack.seq, reason, message: ack.refused.message });
    }
  }
}

// Sends batches until each is acknowledged, a few dozen at most, and tells what became of their events.
//
// Throws where some are not acknowledged in time, and where trying again does not help. Batches may be counted then, or not:
// send the same ones again later.
export async function send(ingest, batches, { metadata = credentials(), giveUpAfterMs = 60_000, outcome = new Outcome() } = {}) {
  const end = Date.now() + giveUpAfterMs;
  let [pending, failures] = [[...batches], 0];
  while (pending.length > 0) {
    const { acks, error } = await sendOnce(ingest, pending, metadata);
    if (error && !passes(error)) throw error;
    let [delayMs, last] = [0, error?.details ?? ""];
    // One acknowledgement per batch, in order. The stream may end early: what was not acknowledged on it may be counted or not,
    // and the same again counts once.
    const left = pending.filter((_, index) => {
      const ack = acks[index];
      if (!ack) return true;
      if (!ack.refused || ack.refused.retryAfterMs === 0) {
        outcome.add(ack);
        return false;
      }
      delayMs = Math.max(delayMs, ack.refused.retryAfterMs);
      last = ack.refused.message;
      return true;
    });
    failures = left.length === pending.length ? failures + 1 : 0;
    pending = left;
    if (pending.length > 0) {
      outcome.repeats += pending.length;
      delayMs ||= delayAfter(error, failures);
      if (Date.now() + delayMs > end) {
        throw new Error(`${pending.length} batches were not acknowledged within ${giveUpAfterMs} ms: ${last}`);
      }
      await sleep(delayMs);
    }
  }
  return outcome;
}

function sendOnce(ingest, batches, metadata) {
  return new Promise((resolve) => {
    const acks = [];
    const call = ingest.sendRows(metadata, deadline());
    call.on("data", (ack) => acks.push(ack));
    // An error comes before the end, and first come, first served.
    call.on("error", (error) => resolve({ acks, error }));
    call.on("end", () => resolve({ acks }));
    for (const batch of batches) call.write(batch);
    call.end();
  });
}

// The answer to a question. Look at its facts: a partial answer says what is missing.
export async function ask(analytics, query, { metadata = credentials(), giveUpAfterMs = 30_000 } = {}) {
  const end = Date.now() + giveUpAfterMs;
  for (let failures = 0; ; failures++) {
    try {
      return await new Promise((resolve, reject) => {
        analytics.query(query, metadata, deadline(), (error, answer) => (error ? reject(error) : resolve(answer)));
      });
    } catch (error) {
      const delayMs = delayAfter(error, failures);
      if (!passes(error) || Date.now() + delayMs > end) throw error;
      await sleep(delayMs);
    }
  }
}

// The values of a row; null where there is no such number.
export const plain = (row) => row.values.map((value) => (value.kind ? value[value.kind] : null));

// The texts at a row's beginning: its time and groups.
function keyOf(row) {
  const end = row.values.findIndex((value) => value.kind !== "text");
  return row.values.slice(0, end < 0 ? undefined : end).map((value) => `${value.text}\x1f`).join("");
}

// FNV-1a (32 bits) over the key's texts, each followed by a byte 0x1f.
export function classOf(key, classes) {
  let value = 0x811c9dc5;
  for (const byte of Buffer.from(key)) value = Math.imul(value ^ byte, 0x01000193) >>> 0;
  return value % classes;
}

// The rows of the next answer, from those of the answer before; docs/live.md has the rule.
export function applyChange(rows, change) {
  const away = new Set([...change.gone, ...change.changed.map((placed) => placed.row)].map(keyOf));
  const classes = new Set(change.replaced?.classes);
  const next = rows.filter((row) => {
    const key = keyOf(row);
    return !away.has(key) && !(change.replaced && classes.has(classOf(key, change.replaced.of)));
  });
  const placed = [...change.added, ...change.changed].sort((a, b) => a.at - b.at);
  for (const { at, row } of placed) next.splice(at, 0, row);
  return next;
}

// Yields the answer as it is now, again and again: `{ columns, rows, facts }`. Where the stream breaks it continues from the
// answer it has. It ends with whoever stops to iterate.
export async function* subscribe(analytics, query, { everyMs = 1_000, metadata = credentials() } = {}) {
  let [columns, rows, resume, failures] = [[], [], "", 0];
  while (true) {
    const call = analytics.subscribe({ subscriptions: [{ query, everyMs, resume }] }, metadata);
    let failed;
    try {
      for await (const update of call) {
        const { facts } = update[update.kind];
        if (update.kind === "answer") ({ columns, rows } = update.answer);
        else rows = applyChange(rows, update.change);
        [resume, failures] = [update.resume, 0];
        yield { columns, rows: rows.map(plain), facts };
      }
    } catch (error) {
      if (!passes(error)) throw error;
      failed = error;
    } finally {
      // What cancelling it says is nobody's concern.
      call.on("error", () => {});
      call.cancel();
    }
    await sleep(delayAfter(failed, ++failures));
  }
}
