"""What came of the checks: one line each, and a count at the end."""
import contextlib


class Failed(Exception):
    """A check that did not pass; the message says why."""


class Skipped(Exception):
    """A check that cannot be made here; the message says why."""


class Report:
    def __init__(self):
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}

    def title(self, text):
        print(f"-- {text}", flush=True)

    @contextlib.contextmanager
    def check(self, what):
        """Runs a check: what it raises is its result."""
        try:
            yield
        except Skipped as why:
            self.counts["skipped"] += 1
            print(f"   SKIPPED: {what}: {why}", flush=True)
        except Exception as why:  # noqa: BLE001: whatever goes wrong is a failed check, and the others go on.
            self.counts["failed"] += 1
            kind = "" if isinstance(why, Failed) else f"{type(why).__name__}: "
            print(f"   FAILED: {what}: {kind}{why}", flush=True)
        else:
            self.counts["passed"] += 1
            print(f"   ok: {what}", flush=True)

    def end(self):
        """Prints the count; the exit code of the whole."""
        print("deploy: " + ", ".join(f"{count} {what}" for what, count in self.counts.items()), flush=True)
        return 1 if self.counts["failed"] else 0


def expect(condition, why):
    """Fails the check where something does not hold."""
    if not condition:
        raise Failed(why)
