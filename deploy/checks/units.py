"""systemd: units that systemd itself accepts, and finds closed enough."""
import re
import shutil
from pathlib import Path

from .program import temporary
from .report import Failed, expect
from .tools import DEPLOY, on_machine, run

FOLDER = DEPLOY / "systemd"
# Of 100: what a service exposes by systemd's own measure. 15 is "OK" with something to spare; without the hardening it is 96.
MOST_EXPOSED = 15


def check(report, program):
    for unit in sorted(FOLDER.glob("*.service")):
        role = re.fullmatch(r"tidemark-(\w+)", unit.stem)[1]
        with report.check(f"systemd accepts {unit.name}"):
            verified(unit)
        with report.check(f"{unit.name} exposes at most {MOST_EXPOSED / 10} by systemd's measure"):
            analyze = on_machine("systemd-analyze")
            said = run(analyze, "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", unit)
            print("   " + said.strip().splitlines()[-1].strip(" →🙂"))
        with report.check(f"the program has the command of {unit.name}, and stops in time"):
            if role == "edge":
                program.needs("edge")
            stops_in_time(unit, role, program)
    with report.check("systemd makes the user of the units"):
        user_is_made()


def verified(unit):
    analyze = on_machine("systemd-analyze")
    with temporary() as folder:
        root = Path(folder)
        units = root / "etc/systemd/system"
        units.mkdir(parents=True)
        # What units refer to, but no other services: their faults are not ours.
        for target in Path("/usr/lib/systemd/system").glob("*.target"):
            if not target.is_symlink():
                shutil.copy(target, units)
        shutil.copy(unit, units)
        program = root / "usr/local/bin/tidemark"
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        said = run(analyze, "verify", f"--root={root}", unit.name)
        # Unknown keys are only said, not failed.
        if said.strip():
            raise Failed(said.strip())


def settings(unit):
    """The unit's lines: key -> values."""
    lines = [line.split("=", 1) for line in unit.read_text().splitlines() if re.match(r"\w+=", line)]
    return {key: [value for name, value in lines if name == key] for key, _ in lines}


def stops_in_time(unit, role, program):
    of = settings(unit)
    expect(of["ExecStart"] == [f"/usr/local/bin/tidemark {role} --config /etc/tidemark/{role}.toml"], of["ExecStart"])
    help_text = program.run(role, "--help")
    expect("--config" in help_text, f"`tidemark {role}` has no --config")
    drain = re.search(r"--drain-timeout.*?\[default: (\d+)s\]", help_text, re.S)
    if drain:
        stop = int(of["TimeoutStopSec"][0].rstrip("s"))
        expect(stop > int(drain[1]), f"it is killed after {stop} s while it may drain for {drain[1]} s")


def user_is_made():
    sysusers = on_machine("systemd-sysusers")
    with temporary() as folder:
        (Path(folder) / "etc").mkdir()
        run(sysusers, f"--root={folder}", FOLDER / "tidemark.sysusers")
        expect("tidemark:" in (Path(folder) / "etc/passwd").read_text(), "there is no user tidemark")
