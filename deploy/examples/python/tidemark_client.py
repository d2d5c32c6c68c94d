"""Tidemark over gRPC: send events as rows, ask, and subscribe.

Copy what you need of it. It has what a careful client does and nothing else:

* a batch keeps its identity (producer id and sequence number) however often it is sent, so it counts once;
* what is refused for now is sent again, after the delay that the node asks for;
* what is rejected is told, event by event, and not sent again;
* a subscription that breaks continues from the answer it has.
"""

import os
import pathlib
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import grpc

# What generate.py has made.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "generated"))
from tidemark.v1 import events_pb2, live_pb2, query_pb2, services_pb2, services_pb2_grpc  # noqa: E402

# Well below the 4 MiB and 65,536 events that a batch may have.
BATCH_BYTES = 1 << 20
BATCH_EVENTS = 10_000
# How long one call may take, and between how many seconds something is tried again where the other side names no delay.
CALL_SECONDS = 10
FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0
# What passes: everything else would fail again in the same way.
PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
# Answers may be larger than the 4 MiB that gRPC takes by default.
OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.keepalive_time_ms", 20_000)]


def connect(address: str, ca: str | None = None) -> grpc.Channel:
    """A channel to `http://host:port` or `https://host:port`.

    With https the other side's certificate has to be signed by the authorities in the file `ca` (default: TIDEMARK_CA, then the
    system's own).
    """
    scheme, _, target = address.partition("://")
    if scheme == "http":
        return grpc.insecure_channel(target, OPTIONS)
    if scheme != "https":
        raise ValueError(f"{address} is not http://host:port or https://host:port")
    ca = ca or os.environ.get("TIDEMARK_CA")
    roots = pathlib.Path(ca).read_bytes() if ca else None
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(root_certificates=roots), OPTIONS)


def credentials(token: str | None = None) -> list[tuple[str, str]]:
    """The metadata of each call: the token (default: TIDEMARK_TOKEN), where there is one."""
    token = token or os.environ.get("TIDEMARK_TOKEN")
    return [("authorization", f"Bearer {token}")] if token else []


def asked_delay(error: grpc.RpcError) -> float | None:
    """The delay in seconds that a failed call asks for."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-retry-pushback-ms":
            return int(value) / 1000
    return None


@dataclass
class Outcome:
    """What became of events. An event is accepted, rejected, or part of a batch that was refused for good."""

    accepted: int = 0
    # Of these, events that an earlier copy of their batch had brought.
    duplicate: int = 0
    # Reason to number of events.
    rejected: Counter = field(default_factory=Counter)
    # The first few of them: sequence number of the batch, position in it, reason.
    rejected_at: list[tuple[int, int, str]] = field(default_factory=list)
    # Sequence number of the batch, reason, message.
    refused: list[tuple[int, str, str]] = field(default_factory=list)
    # Names of dimensions and values that the schema does not have, to number of events. These events count.
    ignored: Counter = field(default_factory=Counter)
    # How often a batch was sent again.
    repeats: int = 0

    def add(self, ack) -> None:
        self.accepted += ack.accepted
        self.duplicate += ack.duplicate
        for rejection in ack.rejected:
            reason = events_pb2.Reason.Name(rejection.reason).removeprefix("REASON_").lower()
            self.rejected[reason] += 1
            if len(self.rejected_at) < 20:
                self.rejected_at.append((ack.seq, rejection.index, reason))
        for ignored in ack.ignored:
            self.ignored[ignored.name] += ignored.events
        if ack.HasField("refused"):
            reason = services_pb2.RefusalReason.Name(ack.refused.reason).removeprefix("REFUSAL_REASON_").lower()
            self.refused.append((ack.seq, reason, ack.refused.message))


def batches_of(events, producer: bytes, first_seq: int, sealed_at_ms: int):
    """Batches of these events: the same events, producer and number make the same batches, which count once."""
    seq, batch, size = first_seq, [], 0
    for event in events:
        event_size = event.ByteSize() + 8
        if batch and (size + event_size > BATCH_BYTES or len(batch) == BATCH_EVENTS):
            yield events_pb2.EventBatch(producer=producer, seq=seq, sealed_at_ms=sealed_at_ms, events=batch)
            seq, batch, size = seq + 1, [], 0
        batch.append(event)
        size += event_size
    if batch:
        yield events_pb2.EventBatch(producer=producer, seq=seq, sealed_at_ms=sealed_at_ms, events=batch)


def send(channel, batches, metadata=(), give_up_after: float = 60, outcome: Outcome | None = None) -> Outcome:
    """Sends batches until each is acknowledged, a few dozen at most, and tells what became of their events.

    Raises TimeoutError where some are not acknowledged in time, and grpc.RpcError where trying again does not help. Batches may
    be counted then, or not: send the same ones again later.
    """
    ingest = services_pb2_grpc.IngestStub(channel)
    outcome = outcome or Outcome()
    pending, failures, last = list(batches), 0, ""
    deadline = time.monotonic() + give_up_after
    while pending:
        left, delay, acknowledged = [], None, 0
        try:
            calls = ingest.SendRows(iter(pending), timeout=CALL_SECONDS, metadata=metadata)
            # One acknowledgement per batch, in order.
            for batch, ack in zip(pending, calls):
                acknowledged += 1
                if ack.HasField("refused") and ack.refused.retry_after_ms > 0:
                    left.append(batch)
                    delay = max(delay or 0, ack.refused.retry_after_ms / 1000)
                    last = ack.refused.message
                else:
                    outcome.add(ack)
        except grpc.RpcError as error:
            if error.code() not in PASSING:
                raise
            delay, last = asked_delay(error), error.details()
        # The stream may end early. What was not acknowledged on it may be counted or not: the same again counts once.
        left += pending[acknowledged:]
        failures = failures + 1 if len(left) == len(pending) else 0
        pending = left
        if pending:
            outcome.repeats += len(pending)
            pause = delay if delay is not None else min(FIRST_DELAY * 2**failures, LONGEST_DELAY)
            if time.monotonic() + pause > deadline:
                raise TimeoutError(f"{len(pending)} batches were not acknowledged within {give_up_after} s: {last}")
            time.sleep(pause)
    return outcome


def ask(channel, query, metadata=(), give_up_after: float = 30):
    """The answer to a question. Look at its facts: a partial answer says what is missing."""
    analytics = services_pb2_grpc.AnalyticsStub(channel)
    deadline = time.monotonic() + give_up_after
    for failures in range(1_000):
        try:
            return analytics.Query(query, timeout=CALL_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            delay = asked_delay(error)
            pause = delay if delay is not None else min(FIRST_DELAY * 2**failures, LONGEST_DELAY)
            if error.code() not in PASSING or time.monotonic() + pause > deadline:
                raise
            time.sleep(pause)
    raise TimeoutError("asked a thousand times")


def plain(value):
    """A value of an answer; None where there is no such number."""
    kind = value.WhichOneof("kind")
    return getattr(value, kind) if kind else None


def key_of(row) -> tuple[str, ...]:
    """The texts at a row's beginning: its time and groups."""
    texts = []
    for value in row.values:
        if value.WhichOneof("kind") != "text":
            break
        texts.append(value.text)
    return tuple(texts)


def class_of(key: tuple[str, ...], classes: int) -> int:
    """FNV-1a (32 bits) over the key's texts, each followed by a byte 0x1f."""
    value = 0x811C9DC5
    for byte in b"".join(text.encode() + b"\x1f" for text in key):
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value % classes


def apply_change(rows: list, change) -> list:
    """The rows of the next answer, from those of the answer before; docs/live.md has the rule."""
    away = {key_of(row) for row in change.gone} | {key_of(placed.row) for placed in change.changed}
    rows = [row for row in rows if key_of(row) not in away]
    if change.HasField("replaced"):
        classes = set(change.replaced.classes)
        rows = [row for row in rows if class_of(key_of(row), change.replaced.of) not in classes]
    for placed in sorted([*change.added, *change.changed], key=lambda placed: placed.at):
        rows.insert(placed.at, placed.row)
    return rows


def subscribe(channel, query, every_ms: int = 1_000, metadata=()):
    """Yields the answer as it is now, again and again: its columns, rows and facts.

    Where the stream breaks it continues from the answer it has. It ends with whoever stops to iterate.
    """
    analytics = services_pb2_grpc.AnalyticsStub(channel)
    columns, rows, resume, failures = [], [], "", 0
    while True:
        question = live_pb2.Subscription(query=query, every_ms=every_ms, resume=resume)
        call = analytics.Subscribe(live_pb2.SubscribeRequest(subscriptions=[question]), metadata=metadata)
        delay = None
        try:
            for update in call:
                if update.WhichOneof("kind") == "answer":
                    columns, rows, facts = list(update.answer.columns), list(update.answer.rows), update.answer.facts
                else:
                    rows, facts = apply_change(rows, update.change), update.change.facts
                resume, failures = update.resume, 0
                yield columns, [[plain(value) for value in row.values] for row in rows], facts
        except grpc.RpcError as error:
            if error.code() not in PASSING:
                raise
            delay = asked_delay(error)
        finally:
            call.cancel()
        failures += 1
        time.sleep(delay if delay is not None else min(FIRST_DELAY * 2**failures, LONGEST_DELAY))
