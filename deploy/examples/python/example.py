"""Send events from a file, ask, and watch: python example.py --help

Events are lines of JSON, such as
{"site": "example.com", "url": "/a", "visitor": "v1", "timeMs": 1700000000000, "dimensions": {"device": "mobile"}}
"""

import argparse
import hashlib
import json
import pathlib
import secrets
import time

from google.protobuf import json_format

import tidemark_client as tidemark
from tidemark_client import events_pb2, query_pb2

# Batches that are on their way together.
TOGETHER = 16


def send(arguments) -> None:
    """Sends a file. What it needs to be the same sender again is in the file's state, so running it twice counts once."""
    state_path = pathlib.Path(arguments.state or f"{arguments.file}.state")
    with open(arguments.file, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if state_path.exists():
        state = json.loads(state_path.read_text())
        # Other events under the numbers of these would be taken for copies of them, and not count.
        if state["sha256"] != digest:
            raise SystemExit(f"{arguments.file} is another file than the one that {state_path} is about: give it another name")
    else:
        state = {"producer": secrets.token_hex(16), "sealed_at_ms": time.time_ns() // 1_000_000, "sha256": digest}
        # Before anything is sent: otherwise a crash in between would make a second sender.
        state_path.write_text(json.dumps(state))
    with open(arguments.file, encoding="utf-8") as lines:
        events = (json_format.Parse(line, events_pb2.Event()) for line in lines if line.strip())
        batches = tidemark.batches_of(events, bytes.fromhex(state["producer"]), 1, state["sealed_at_ms"])
        outcome, together = tidemark.Outcome(), []
        channel, metadata = tidemark.connect(arguments.node, arguments.ca), tidemark.credentials()
        with channel:
            for batch in batches:
                together.append(batch)
                if len(together) == TOGETHER:
                    tidemark.send(channel, together, metadata, outcome=outcome)
                    together = []
            tidemark.send(channel, together, metadata, outcome=outcome)
    print(f"{outcome.accepted} accepted, {outcome.duplicate} of them sent before, {sum(outcome.rejected.values())} rejected")
    for seq, index, reason in outcome.rejected_at:
        print(f"rejected: event {index} of batch {seq}: {reason}")
    for name, events in outcome.ignored.items():
        print(f"the schema has no {name!r}, which {events} events have: they count without it")
    for seq, reason, message in outcome.refused:
        print(f"refused: batch {seq}: {reason}: {message}")
    if outcome.refused:
        raise SystemExit(1)


def question(arguments) -> query_pb2.Query:
    return query_pb2.Query(
        site=arguments.site,
        **{"from": arguments.since},
        measures=arguments.measure.split(","),
        group_by=arguments.by.split(",") if arguments.by else [],
        limit=arguments.top,
    )


def show(columns, rows, facts) -> None:
    print("  ".join(columns))
    for row in rows:
        print("  ".join("-" if value is None else str(value) for value in row))
    missing = "; ".join(f"{missing.node}: {missing.reason}" for missing in facts.missing)
    print("complete" if facts.complete else f"PARTIAL: {missing}", flush=True)


def query(arguments) -> None:
    with tidemark.connect(arguments.at, arguments.ca) as channel:
        answer = tidemark.ask(channel, question(arguments), tidemark.credentials())
    show(answer.columns, [[tidemark.plain(value) for value in row.values] for row in answer.rows], answer.facts)


def watch(arguments) -> None:
    with tidemark.connect(arguments.at, arguments.ca) as channel:
        for answer in tidemark.subscribe(channel, question(arguments), arguments.every_ms, tidemark.credentials()):
            show(*answer)


def main() -> None:
    parser = argparse.ArgumentParser(description="Tidemark by gRPC. A token is read from TIDEMARK_TOKEN.")
    parser.add_argument("--ca", help="file of the certificate authority to trust with https (default: TIDEMARK_CA)")
    commands = parser.add_subparsers(required=True)
    sending = commands.add_parser("send", help="send a file of JSON lines")
    sending.add_argument("file")
    sending.add_argument("--node", default="http://127.0.0.1:7100")
    sending.add_argument("--state", help="who sent the file (default: FILE.state)")
    sending.set_defaults(run=send)
    for name, run in [("query", query), ("watch", watch)]:
        asking = commands.add_parser(name)
        asking.add_argument("--at", default="http://127.0.0.1:8100", help="the coordinator")
        asking.add_argument("--site", required=True)
        asking.add_argument("--since", default="-1h")
        asking.add_argument("--by", default="url")
        asking.add_argument("--measure", default="views,visitors")
        asking.add_argument("--top", type=int, default=10)
        asking.set_defaults(run=run)
        if name == "watch":
            asking.add_argument("--every-ms", type=int, default=1_000)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
