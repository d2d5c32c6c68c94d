"""The program itself, started with what the files of deploy/ say."""
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from .report import Failed, Skipped, expect
from .tools import DEPLOY, ROOT, run

# Long enough for a slow machine, short enough for a person.
PATIENCE_S = 60


def until(what, condition):
    """Waits for something to hold; fails when it does not in time. The condition's last error is part of the message."""
    deadline, last = time.monotonic() + PATIENCE_S, None
    while time.monotonic() < deadline:
        try:
            result = condition()
            if result:
                return result
        except (OSError, Failed) as why:
            last = why
        time.sleep(0.1)
    raise Failed(f"{what}: not within {PATIENCE_S} s ({last})")


class Program:
    def __init__(self, path, without):
        self.path, self.without = path, without

    @classmethod
    def find(cls, named, without):
        """The program that is named, or the one that was built last."""
        built = [ROOT / "target" / kind / "tidemark" for kind in ("debug", "release")]
        built = sorted((path for path in built if path.exists()), key=lambda path: path.stat().st_mtime)
        return cls(named.resolve() if named else built[-1] if built else None, without)

    def there(self):
        """Its path, or a failed check: it is built by `cargo build`."""
        expect(self.path and self.path.exists(), "the program is not built: run `cargo build`, or give --program")
        return self.path

    def has(self, part):
        """Whether this build has a part."""
        return part not in self.without

    def needs(self, part):
        """Skips the check where this build lacks a part."""
        if not self.has(part):
            raise Skipped(f"this build of the program is without {part}")

    def environment(self, settings, extra_path=()):
        """The environment of a process: these settings, and nothing that the machine happens to have set."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEMARK_", "AWS_"))}
        kept["PATH"] = os.pathsep.join([*map(str, extra_path), str(self.there().parent), kept.get("PATH", "")])
        if not self.has("tls"):
            settings = {name: value for name, value in settings.items() if name not in ("TIDEMARK_TLS", "TIDEMARK_TOKENS")}
        return kept | settings

    def run(self, *arguments, settings=None):
        """Runs a command to its end."""
        return run(self.there(), *arguments, env=self.environment(settings or {}))

    def knows(self, role, names):
        """Whether a command has these environment variables: it says nothing of those that it does not know."""
        known = set(re.findall(r"\[env: (\w+)", self.run(role, "--help")))
        lacking = {name for name in names if name.startswith("TIDEMARK_")} - known
        if not self.has("tls"):
            lacking -= {"TIDEMARK_TLS", "TIDEMARK_TOKENS"}
        expect(not lacking, f"`tidemark {role}` does not know {', '.join(sorted(lacking))}")

    def secrets(self, folder, names):
        """Makes certificates, tokens and a key of gossip as an operator does."""
        if self.has("tls"):
            run(DEPLOY / "make-secrets", folder, *names, env=self.environment({}))
        else:
            (folder / "cluster").mkdir(parents=True)
            (folder / "cluster" / "key.toml").write_text('cluster_key = "sixteen characters"\n')

    def start(self, arguments, settings, prefix=(), within=None):
        """Starts a member. What it logs goes to a file."""
        return Member(self, [*prefix, within or self.there(), *arguments], self.environment(settings))


class Member:
    """A running member; ended when the `with` ends."""

    def __init__(self, program, command, environment):
        self.program, self.command = program, [str(word) for word in command]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self.command, env=environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()

    def said(self):
        """What it logged last."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-3000:]

    def until_answers(self, address, path, ca=None):
        """Waits until a page says 200."""

        def answers():
            if self.process.poll() is not None:
                raise AssertionError(f"{self.command} ended with {self.process.returncode}:\n{self.said()}")
            return get(self.program, address, path, ca)[0] == 200

        try:
            until(f"{path} of {address}", answers)
        except Failed as why:
            raise Failed(f"{why}; it said:\n{self.said()}") from why

    def stop(self, within_s):
        """Ends it as an operator does; fails where it is slow or ends with an error."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=within_s)
        except subprocess.TimeoutExpired as why:
            raise Failed(f"{self.command} does not stop within {within_s} s:\n{self.said()}") from why
        expect(code == 0, f"{self.command} ended with {code}:\n{self.said()}")


def get(program, address, path, ca=None, token=None, body=None):
    """Asks a page: its status and text. Certificates are verified."""
    scheme = "https" if program.has("tls") and ca else "http"
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{scheme}://{address}{path}", data=data, headers=headers)
    context = None
    if scheme == "https":
        context = ssl.create_default_context(cafile=ca)
        # Newer Pythons want more of a CA's certificates than TLS does.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as reply:
        return reply.code, reply.read().decode()


def free_port():
    """A port of loopback that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def own_network():
    """The first three bytes of addresses of loopback that no other run of these checks uses, most likely."""
    number = os.getpid()
    return f"127.{64 + number // 250 % 128}.{1 + number % 250}"


def temporary():
    """A folder that is gone afterwards."""
    folder = ROOT / "target" / "deploy-check"
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=folder, prefix="run-")


def read(path):
    """A file's text without what surrounds it."""
    return Path(path).read_text().strip()
