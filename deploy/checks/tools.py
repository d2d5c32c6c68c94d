"""Where the tools of the checks come from: PyPI, Debian's packages, or the machine."""
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .report import Failed, Skipped

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
FOLDER = ROOT / "target" / "deploy-check"


def run(*command, env=None, cwd=None, timeout_s=120):
    """Runs a command to its end; its output, or a failed check that shows it."""
    command = [str(word) for word in command]
    done = subprocess.run(
        command, env=env, cwd=cwd, timeout=timeout_s, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout.strip()}")
    return done.stdout


def modules(report):
    """The folder of the Python modules of requirements.txt, installed where they are not there yet; None where that cannot be."""
    wanted = DEPLOY / "checks" / "requirements.txt"
    mark = hashlib.sha256(wanted.read_bytes()).hexdigest()[:16]
    folder = FOLDER / f"venv-{mark}"
    if (folder / "installed").exists():
        return folder.resolve()
    try:
        run(sys.executable, "-m", "venv", folder, timeout_s=300)
        run(folder / "bin" / "python", "-m", "pip", "install", "-q", "-r", wanted, timeout_s=600)
        (folder / "installed").touch()
        return folder.resolve()
    except (Failed, OSError, subprocess.TimeoutExpired) as why:
        with report.check("tools from PyPI"):
            raise Skipped(str(why))
    return None


def module(name):
    """A Python module, or a skipped check."""
    try:
        return __import__(name)
    except ImportError as why:
        raise Skipped(f"the module {name} cannot be installed") from why


def from_pypi(name):
    """A program that came with the modules."""
    found = Path(sys.prefix) / "bin" / name
    if not found.exists():
        raise Skipped(f"{name} cannot be installed")
    return found


def on_machine(*names):
    """The first of these programs that is here."""
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    raise Skipped(f"{' or '.join(names)} is not installed")


def of_prometheus(name):
    """`promtool` or `prometheus`: the machine's, or Debian's, unpacked beside the other tools, so that no service starts."""
    found = shutil.which(name)
    if found:
        return found
    folder = FOLDER / "prometheus"
    program = folder / "usr" / "bin" / name
    if not program.exists():
        apt = on_machine("apt-get")
        with tempfile.TemporaryDirectory() as downloads:
            try:
                run(apt, "download", "-q", "prometheus", cwd=downloads)
                run("dpkg-deb", "-x", next(Path(downloads).glob("prometheus_*.deb")), folder)
            except (Failed, StopIteration, subprocess.TimeoutExpired) as why:
                raise Skipped(f"Debian's package prometheus cannot be had: {why}") from why
    return program


def read_yaml(path):
    """The only document of a file."""
    return module("yaml").safe_load(path.read_text())
