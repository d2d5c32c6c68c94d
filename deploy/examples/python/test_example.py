"""Runs the example against a real node, and what passes by chance there against a made-up one: python test_example.py

The program is the one that TIDEMARK_PROGRAM names, otherwise the one in target/.
"""

import json
import os
import pathlib
import queue
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from concurrent import futures

import generate

HERE = pathlib.Path(__file__).resolve().parent
# How long anything may take on a loaded machine.
PATIENCE = 60

generate.main()

import grpc  # noqa: E402
import tidemark_client as tidemark  # noqa: E402
from tidemark_client import events_pb2, live_pb2, query_pb2, services_pb2, services_pb2_grpc  # noqa: E402


def program() -> str:
    target = HERE.parents[2] / "target"
    found = [target / kind / "tidemark" for kind in ("debug", "release") if (target / kind / "tidemark").exists()]
    named = os.environ.get("TIDEMARK_PROGRAM") or (found and str(found[0]))
    if not named:
        sys.exit("there is no tidemark in target/: run cargo build, or name one with TIDEMARK_PROGRAM")
    return named


class Node:
    """A node that answers queries too, on ports that the system picks."""

    def __init__(self, folder: str) -> None:
        arguments = ["node", "--single", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data", f"{folder}/data"]
        self.process = subprocess.Popen([program(), *arguments], stderr=subprocess.PIPE, text=True)
        lines: queue.Queue[str] = queue.Queue()
        # Whoever logs must not block on a full pipe.
        threading.Thread(target=lambda: [lines.put(line) for line in self.process.stderr], daemon=True).start()
        self.node = self.address(lines, "the node serves")
        self.coordinator = self.address(lines, "coordinator is listening")

    @staticmethod
    def address(lines: queue.Queue, what: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while True:
            line = lines.get(timeout=max(deadline - time.monotonic(), 0))
            if what in line:
                return "http://" + re.search(r"address=(\S+)", line)[1]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.process.stderr.close()


class AgainstANode(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.node = Node(self.folder.name)
        self.addCleanup(self.folder.cleanup)
        self.addCleanup(self.node.stop)

    def example(self, *arguments: str) -> str:
        command = [sys.executable, str(HERE / "example.py"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_a_file_that_is_sent_twice_counts_once(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        path = f"{self.folder.name}/events.jsonl"
        with open(path, "w", encoding="utf-8") as file:
            for number in range(25_000):
                event = {"site": "example.com", "url": f"/{number % 3}", "visitor": f"v{number % 100}", "timeMs": now_ms}
                file.write(json.dumps(event) + "\n")
            file.write(json.dumps({"site": "example.com", "url": "", "timeMs": now_ms}) + "\n")
            file.write(json.dumps({"site": "example.com", "url": "/0", "dimensions": {"mood": "good"}}) + "\n")
        first = self.example("send", path, "--node", self.node.node)
        self.assertIn("25001 accepted, 0 of them sent before, 1 rejected", first)
        self.assertIn("rejected: event 5000 of batch 3: missing_url", first)
        self.assertIn("the schema has no 'mood', which 1 events have", first)
        again = self.example("send", path, "--node", self.node.node)
        self.assertIn("25001 accepted, 25001 of them sent before", again)

        answer = self.example("query", "--at", self.node.coordinator, "--site", "example.com").splitlines()
        self.assertEqual(answer[0], "url  views  visitors")
        self.assertEqual([row.split()[:2] for row in answer[1:4]], [["/0", "8335"], ["/1", "8333"], ["/2", "8333"]])
        self.assertEqual(answer[4:], ["complete"])

        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"site": "example.com", "url": "/new"}) + "\n")
        command = [sys.executable, str(HERE / "example.py"), "send", path, "--node", self.node.node]
        changed = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        self.assertIn("is another file", changed.stderr)

    def test_a_subscriber_sees_what_is_counted(self) -> None:
        producer = secrets.token_bytes(16)
        with tidemark.connect(self.node.node) as to, tidemark.connect(self.node.coordinator) as at:
            question = query_pb2.Query(site="live.example", measures=["views"], group_by=["url"])
            answers = tidemark.subscribe(at, question, 100)
            _, rows, facts = next(answers)
            self.assertEqual((rows, facts.complete), ([], True))
            for seq, (url, count) in enumerate([("/a", 3), ("/b", 5), ("/a", 4)], start=1):
                events = [events_pb2.Event(site="live.example", url=url)] * count
                outcome = tidemark.send(to, [*tidemark.batches_of(events, producer, seq, time.time_ns() // 1_000_000)])
                self.assertEqual((outcome.accepted, outcome.duplicate), (count, 0))
            while rows != [["/a", 7], ["/b", 5]]:
                _, rows, facts = next(answers)
            self.assertTrue(facts.complete)
            self.assertEqual([[*map(tidemark.plain, row.values)] for row in tidemark.ask(at, question).rows], rows)
            answers.close()

    def test_a_question_that_cannot_be_is_not_asked_again(self) -> None:
        with tidemark.connect(self.node.coordinator) as at, self.assertRaises(grpc.RpcError) as raised:
            tidemark.ask(at, query_pb2.Query(site="live.example", measures=["nonsense"]))
        self.assertEqual(raised.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)


class Moody(services_pb2_grpc.IngestServicer, services_pb2_grpc.AnalyticsServicer):
    """Does to each call, and to each batch, what comes next in its list; then all is well."""

    def __init__(self) -> None:
        self.calls, self.batches, self.seen, self.metadata, self.subscribed = [], [], [], [], []

    def begin(self, context) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        if self.calls and (code := self.calls.pop(0)):
            if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
                context.set_trailing_metadata([("grpc-retry-pushback-ms", "30")])
            context.abort(code, "events/s of the site: 120 of 100")

    def SendRows(self, request_iterator, context):
        self.begin(context)
        for batch in request_iterator:
            self.seen.append((batch.producer, batch.seq, batch.sealed_at_ms, len(batch.events)))
            mood = self.batches.pop(0) if self.batches else None
            if mood == "end":
                return
            refused = mood and services_pb2.Refusal(reason=mood[0], retry_after_ms=mood[1], message="why")
            accepted = 0 if mood else len(batch.events)
            yield services_pb2.BatchAck(producer=batch.producer, seq=batch.seq, accepted=accepted, refused=refused)

    def Query(self, request, context):
        self.begin(context)
        return query_pb2.Answer(columns=["views"], facts=query_pb2.Facts(complete=True))

    def Subscribe(self, request, context):
        self.begin(context)
        self.subscribed.append(request.subscriptions[0].resume)
        update = self.batches.pop(0)
        yield update


def row(*values) -> query_pb2.Row:
    kinds = [query_pb2.Value(text=value) if isinstance(value, str) else query_pb2.Value(integer=value) for value in values]
    return query_pb2.Row(values=kinds)


class AgainstMoods(unittest.TestCase):
    def setUp(self) -> None:
        self.moody = Moody()
        server = grpc.server(futures.ThreadPoolExecutor(4))
        services_pb2_grpc.add_IngestServicer_to_server(self.moody, server)
        services_pb2_grpc.add_AnalyticsServicer_to_server(self.moody, server)
        self.channel = tidemark.connect(f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        server.start()
        self.addCleanup(lambda: server.stop(None).wait())
        self.addCleanup(self.channel.close)
        events = [events_pb2.Event(site="example.com", url="/")] * 25_000
        self.batches = list(tidemark.batches_of(events, b"sixteen bytes id", 7, 1_700_000_000_000))
        self.assertEqual([(batch.seq, len(batch.events)) for batch in self.batches], [(7, 10_000), (8, 10_000), (9, 5_000)])

    def test_what_is_refused_for_now_is_sent_again_as_it_was_and_after_the_delay(self) -> None:
        self.moody.batches = [None, (services_pb2.REFUSAL_REASON_OVERLOADED, 300), None]
        began = time.monotonic()
        outcome = tidemark.send(self.channel, self.batches)
        self.assertGreaterEqual(time.monotonic() - began, 0.3)
        self.assertEqual((outcome.accepted, outcome.repeats, outcome.refused), (25_000, 1, []))
        self.assertEqual([seen[1] for seen in self.moody.seen], [7, 8, 9, 8])
        self.assertEqual(self.moody.seen[1], self.moody.seen[3])

    def test_a_stream_that_breaks_or_is_over_a_limit_goes_on_with_what_is_not_acknowledged(self) -> None:
        self.moody.calls = [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE]
        self.moody.batches = [None, "end"]
        outcome = tidemark.send(self.channel, self.batches)
        self.assertEqual((outcome.accepted, outcome.repeats), (25_000, 8))
        self.assertEqual([seen[1] for seen in self.moody.seen], [7, 8, 8, 9])

    def test_what_is_refused_for_good_is_told_and_not_sent_again(self) -> None:
        self.moody.batches = [(services_pb2.REFUSAL_REASON_BAD_SEAL_TIME, 0)]
        outcome = tidemark.send(self.channel, self.batches)
        self.assertEqual((outcome.accepted, outcome.refused), (15_000, [(7, "bad_seal_time", "why")]))
        self.moody.calls = [grpc.StatusCode.PERMISSION_DENIED]
        with self.assertRaises(grpc.RpcError):
            tidemark.send(self.channel, self.batches)

    def test_it_gives_up_in_the_end(self) -> None:
        self.moody.batches = [(services_pb2.REFUSAL_REASON_OVERLOADED, 60_000)]
        with self.assertRaisesRegex(TimeoutError, "1 batches were not acknowledged within 1 s: why"):
            tidemark.send(self.channel, self.batches, give_up_after=1)

    def test_a_question_waits_for_as_long_as_it_is_told_and_each_call_has_the_token(self) -> None:
        self.moody.calls = [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
        metadata = tidemark.credentials("tmk_example")
        began = time.monotonic()
        answer = tidemark.ask(self.channel, query_pb2.Query(site="*"), metadata)
        self.assertTrue(answer.facts.complete)
        self.assertGreaterEqual(time.monotonic() - began, 0.06)
        tidemark.send(self.channel, self.batches, metadata)
        self.assertEqual([seen["authorization"] for seen in self.moody.metadata], ["Bearer tmk_example"] * 4)

    def test_a_subscription_goes_on_where_it_was(self) -> None:
        first = query_pb2.Answer(columns=["url", "views"], rows=[row("/a", 9), row("/b", 5), row("/c", 1)])
        changed = live_pb2.PlacedRow(at=0, row=row("/b", 10))
        added = live_pb2.PlacedRow(at=2, row=row("/d", 2))
        classes = live_pb2.Replaced(of=355, classes=[tidemark.class_of(("/a",), 355)])
        again = live_pb2.Change(added=[live_pb2.PlacedRow(at=1, row=row("/a", 3))], replaced=classes)
        self.moody.batches = [
            live_pb2.Update(answer=first, resume="one"),
            live_pb2.Update(change=live_pb2.Change(changed=[changed], added=[added], gone=[row("/c")]), resume="two"),
            live_pb2.Update(change=again, resume="three"),
        ]
        self.moody.calls = [None, grpc.StatusCode.UNAVAILABLE]
        answers = tidemark.subscribe(self.channel, query_pb2.Query(site="example.com"))
        seen = [next(answers)[1] for _ in range(3)]
        answers.close()
        self.assertEqual(seen[0], [["/a", 9], ["/b", 5], ["/c", 1]])
        self.assertEqual(seen[1], [["/b", 10], ["/a", 9], ["/d", 2]])
        self.assertEqual(seen[2], [["/b", 10], ["/a", 3], ["/d", 2]])
        self.assertEqual(self.moody.subscribed, ["", "one", "two"])


class Channels(unittest.TestCase):
    def test_https_trusts_the_authority_it_is_given_and_nobody_else(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name in ("right", "wrong"):
                subprocess.run(
                    ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
                    + ["-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.crt", "-days", "2", "-subj", "/CN=localhost"]
                    + ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
                    check=True,
                    capture_output=True,
                )
            read = lambda name: pathlib.Path(folder, name).read_bytes()  # noqa: E731
            moody = Moody()
            server = grpc.server(futures.ThreadPoolExecutor(2))
            services_pb2_grpc.add_AnalyticsServicer_to_server(moody, server)
            keys = grpc.ssl_server_credentials([(read("right.key"), read("right.crt"))])
            port = server.add_secure_port("127.0.0.1:0", keys)
            server.start()
            self.addCleanup(lambda: server.stop(None).wait())
            with tidemark.connect(f"https://127.0.0.1:{port}", f"{folder}/right.crt") as channel:
                self.assertTrue(tidemark.ask(channel, query_pb2.Query(site="*")).facts.complete)
            with tidemark.connect(f"https://127.0.0.1:{port}", f"{folder}/wrong.crt") as channel:
                with self.assertRaises(grpc.RpcError):
                    tidemark.ask(channel, query_pb2.Query(site="*"), give_up_after=1)

    def test_an_address_without_a_scheme_is_refused(self) -> None:
        with self.assertRaises(ValueError):
            tidemark.connect("127.0.0.1:7100")


if __name__ == "__main__":
    unittest.main()
