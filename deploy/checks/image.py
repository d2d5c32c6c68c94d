"""The container image: what of it can be checked without a daemon that builds it."""
import os
import re
import shutil
import subprocess
from pathlib import Path

from .program import free_port, temporary
from .report import Skipped, expect
from .tools import DEPLOY, ROOT, from_pypi, module, run

DOCKERFILE = DEPLOY / "Dockerfile"
# A tag that names a version to the last number.
VERSION = re.compile(r":v?\d+\.\d+(\.\d+)?(-[\w.-]+)?$")


def check(report, program):
    with report.check("hadolint finds nothing in the Dockerfile"):
        run(from_pypi("hadolint"), DOCKERFILE)
    with report.check("bases are named by version, and the image runs as nobody's root"):
        steps_are_sound()
    with report.check("the build gets every member of the workspace"):
        context_is_complete()
    with report.check("the program runs in the image's own file tree, as its user"):
        runs_in_its_tree(program)
    with report.check("building the image"):
        raise Skipped("there is no daemon here; run `docker build -f deploy/Dockerfile .` where there is one")


def steps():
    """The steps of the Dockerfile: (instruction, value)."""
    parser = module("dockerfile_parse").DockerfileParser(fileobj=open(DOCKERFILE, "rb"))
    return [(step["instruction"], step["value"]) for step in parser.structure]


def steps_are_sound():
    all_steps = steps()
    arguments = dict(value.split("=", 1) for name, value in all_steps if name == "ARG")
    stages = [value.split() for name, value in all_steps if name == "FROM"]
    names = {stage[2] for stage in stages if len(stage) == 3}
    for base, *_ in stages:
        base = arguments.get(base.strip("${}"), base)
        expect(base == "scratch" or base in names or VERSION.search(base), f"{base} is not pinned by its version")
    last = max(number for number, (name, _) in enumerate(all_steps) if name == "FROM")
    of_image = all_steps[last:]
    users = [value for name, value in of_image if name == "USER"]
    expect(users and re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]), "the image does not run as a number other than 0")
    expect(not any(name in ("ADD", "RUN") for name, _ in of_image), "the last stage only copies")
    expect(not any(name == "ADD" for name, _ in all_steps), "COPY, not ADD")
    # What COPY copies gets the owner that it names; a folder that is there already keeps its own.
    owned = [value.split()[-2:] for name, value in of_image if name == "COPY" and f"--chown={users[-1]}" in value]
    expect(owned == [["/state-of-image", "/var/lib/"]], f"the folder for data is not copied into the one above it: {owned}")


def context_is_complete():
    lines = [line.strip() for line in (ROOT / ".dockerignore").read_text().splitlines()]
    expect("*" in lines, ".dockerignore lets everything in")
    let_in = {line[1:] for line in lines if line.startswith("!")}
    manifest = (ROOT / "Cargo.toml").read_text()
    members = re.findall(r'"([\w-]+)"', re.search(r"^members = \[(.*?)\]", manifest, re.S | re.M)[1])
    lacking = [name for name in [*members, "Cargo.toml", "Cargo.lock"] if name not in let_in]
    expect(not lacking, f".dockerignore keeps out {', '.join(lacking)}")


def runs_in_its_tree(program):
    """Makes the tree with the Dockerfile's own step, from this program, and starts a node in it: nothing else is there."""
    if os.geteuid() != 0:
        raise Skipped("it takes root to change the root folder")
    making = [value for name, value in steps() if name == "RUN" and "/root-of-image" in value]
    expect(len(making) == 1, "no step, or several, make /root-of-image")
    with temporary() as folder:
        # Short enough to strip and copy within a second or two.
        tree, stripped = Path(folder) / "tree", Path(folder) / "tidemark"
        shutil.copy(program.there(), stripped)
        if shutil.which("strip"):
            run("strip", "--strip-debug", stripped)
        step = making[0].replace("/root-of-image", str(tree)).replace("target/dist/tidemark", str(stripped))
        step = step.replace("/state-of-image", str(tree / "var/lib"))
        run("bash", "-euo", "pipefail", "-c", step, cwd=ROOT)
        there = sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file())
        expect(not [path for path in there if Path(path).name in ("sh", "bash", "busybox")], f"there is a shell: {there}")
        data = tree / "var/lib/tidemark"
        # As the last stage does.
        os.chown(data, 65532, 65532)
        # The folder above is this user's alone.
        os.chmod(folder, 0o755)
        in_tree = ["chroot", "--userspec=65532:65532", tree]
        address = f"127.0.0.1:{free_port()}"
        settings = {"TIDEMARK_DATA": "/var/lib/tidemark", "TIDEMARK_LISTEN": address}
        with program.start(["node"], settings, prefix=in_tree, within="/usr/local/bin/tidemark") as node:
            node.until_answers(address, "/readyz")
            user = subprocess.run(["ps", "-o", "uid=", "-p", str(node.process.pid)], capture_output=True, text=True, check=False)
            expect(user.stdout.strip() in ("65532", ""), f"it runs as {user.stdout}")
            node.stop(40)
        size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
        print(f"   {len(there)} files, {size >> 20} MiB with this build of the program: {' '.join(there)}")
