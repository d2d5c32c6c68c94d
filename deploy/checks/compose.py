"""Compose: its own check, a second reader's, and the whole cluster of it as processes of this machine."""
import json
import re
import shutil
from contextlib import ExitStack
from pathlib import Path

from .program import free_port, get, own_network, read, temporary, until
from .report import Failed, Skipped, expect
from .tools import DEPLOY, module, of_prometheus, on_machine, read_yaml, run

FOLDER = DEPLOY / "compose"
FILE = FOLDER / "compose.yaml"
ROLES = ("node", "coordinator", "edge")


def check(report, program):
    with report.check("compose accepts the file"):
        resolved()
    with report.check("the file follows the compose specification"):
        # With variables and anchors filled in: the library knows neither.
        module("compose_spec").PyCompose.from_yaml(module("yaml").safe_dump(resolved()))
    with report.check("services are closed, pinned, published on this machine only, and say how they are"):
        services_are_sound()
    with report.check("the program knows every setting of its members"):
        for service in members().values():
            program.knows(service["command"][0], service["environment"])
    with report.check("its members run as a cluster, its health checks pass, and Prometheus scrapes them"):
        runs(program)


def resolved():
    """The file as compose understands it."""
    docker = shutil.which("docker")
    if docker:
        try:
            run(docker, "compose", "version")
            return module("yaml").safe_load(run(docker, "compose", "-f", FILE, "config"))
        except Failed:
            pass
    return module("yaml").safe_load(run(on_machine("docker-compose"), "-f", FILE, "config"))


def members():
    """The services that run the program: name -> service, as written."""
    services = read_yaml(FILE)["services"]
    return {name: of for name, of in services.items() if of.get("command") and of["command"][0] in ROLES}


def services_are_sound():
    tree = read_yaml(FILE)
    for name, service in tree["services"].items():
        image = re.sub(r"\$\{\w+:-(.*)\}", r"\1", service["image"])
        expect(re.search(r":(v?\d|RELEASE\.\d)", image), f"{name}: {image} is not pinned by its version")
        for port in service.get("ports", []):
            expect(port.startswith("127.0.0.1:"), f"{name} publishes {port} beyond this machine")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            known = (FOLDER / source).exists() if source.startswith(".") else source in tree["volumes"]
            expect(known, f"{name}: {source} is not there")
    found = members()
    kinds = sorted(service["command"][0] for service in found.values() if service["command"][0] != "edge")
    expect(kinds == ["coordinator"] * 2 + ["node"] * 3, f"three nodes and two coordinators, not {kinds}")
    for name, service in found.items():
        expect(service["read_only"] and service["cap_drop"] == ["ALL"], f"{name} may do more than it needs")
        expect(service["healthcheck"]["test"][0] == "CMD", f"{name} does not say how it is")
        drain = re.match(r"(\d+)s", service["environment"].get("TIDEMARK_DRAIN_TIMEOUT", "0s"))[1]
        grace = re.match(r"(\d+)s", service.get("stop_grace_period", "10s"))[1]
        expect(int(grace) > int(drain), f"{name} is killed after {grace} s while it may drain for {drain} s")


class Places:
    """Where what the file names is on this machine: addresses of loopback, folders of this run."""

    def __init__(self, folder):
        self.folder, self.secrets = folder, folder / "secrets"
        network = own_network()
        tree = read_yaml(FILE)
        subnet = tree["networks"]["cluster"]["ipam"]["config"][0]["subnet"].rsplit(".", 1)[0]
        self.subnet, self.network = subnet + ".", network + "."
        self.address = {
            name: service["networks"]["cluster"]["ipv4_address"].replace(self.subnet, self.network)
            for name, service in members().items()
        }

    def of(self, text, own="127.0.0.1"):
        """A setting, an argument or a file as it has to read here."""
        text = str(text).replace(self.subnet, self.network).replace("/secrets/", f"{self.secrets}/")
        for name, address in self.address.items():
            text = re.sub(rf"\b{name}:", f"{address}:", text)
        return text.replace("0.0.0.0:", f"{own}:").replace("localhost:", f"{own}:")

    def names(self):
        """The names that the one-shot service has certificates made for."""
        script = read_yaml(FILE)["services"]["secrets"]["command"][0].replace("\\\n", " ")
        line = next(line for line in script.splitlines() if line.strip().startswith("make-secrets"))
        return [self.of(word) for word in line.split()[2:]]


def runs(program):
    with temporary() as folder, ExitStack() as running:
        places = Places(Path(folder))
        program.secrets(places.secrets, places.names())
        started = {}
        for name, service in members().items():
            own = places.address[name]
            settings = {key: places.of(value, own) for key, value in service["environment"].items()}
            settings = {key: value for key, value in settings.items() if not key.startswith("AWS_")}
            if "TIDEMARK_STORE" in settings:
                # A folder: the store itself is not ours to check, and tests of the program speak S3.
                settings |= {"TIDEMARK_STORE": f"{folder}/history", "TIDEMARK_DATA": f"{folder}/{name}"}
            started[name] = running.enter_context(program.start(service["command"], settings))
        for name, service in members().items():
            healthy(program, places, name, service, started[name])
        asked(program, places)
        scraped(program, places, running)
        # All at once, as `docker compose down` does it.
        for member in started.values():
            member.process.terminate()
        for name, member in started.items():
            member.stop(75)


def healthy(program, places, name, service, member):
    """Waits until the service's own health check passes."""
    command = [places.of(word, places.address[name]) for word in service["healthcheck"]["test"][1:]]
    expect(command[0] == "tidemark", f"{name}: only the program is in the image, not {command[0]}")
    command = command[1:]
    if not program.has("tls"):
        for flag in ("--ca", "--token-file"):
            at = command.index(flag)
            del command[at : at + 2]
        command = [word.replace("https://", "http://") for word in command]

    def passes():
        if member.process.poll() is not None:
            raise AssertionError(f"{name} ended with {member.process.returncode}:\n{member.said()}")
        return program.run(*command) is not None

    until(f"the health check of {name}", passes)


def asked(program, places):
    """What one coordinator takes, the other one answers."""
    site, ca = "compose.example", places.secrets / "clients" / "ca.crt"
    token = {scope: read(places.secrets / "clients" / scope) if program.has("tls") else None for scope in ("ingest", "query")}
    one, other = (f"{places.address[name]}:8100" for name in ("coordinator1", "coordinator2"))
    status, text = get(program, one, "/v1/events", ca, token["ingest"], [{"site": site, "url": "/"}] * 3)
    expect(status == 200 and json.loads(text)["accepted"] == 3, f"events: {status} {text}")
    question = f"/v1/query?site={site}&from=-1h&measures=views"

    def answered():
        status, text = get(program, other, question, ca, token["query"])
        return status == 200 and json.loads(text)["rows"] == [[3]]

    until("the events are counted", answered)
    if program.has("tls"):
        status, text = get(program, other, question, ca)
        expect(status == 401, f"without a token the answer is {status}: {text}")


def scraped(program, places, running):
    """Prometheus itself, with the file of this folder, sees every member up."""
    try:
        prometheus = of_prometheus("prometheus")
    except Skipped as why:
        print(f"   SKIPPED: Prometheus scrapes the members: {why}")
        return
    config = places.of((FOLDER / "prometheus.yml").read_text())
    if not program.has("tls"):
        config = re.sub(r"^ *(tls_config|authorization): .*\n", "", config, flags=re.M).replace("scheme: https", "scheme: http")
    config = config.replace("scrape_interval: 5s", "scrape_interval: 1s")
    folder = places.folder / "prometheus"
    folder.mkdir()
    (folder / "prometheus.yml").write_text(config)
    shutil.copy(DEPLOY / "grafana" / "alerts.yml", folder / "alerts.yml")
    address = f"127.0.0.1:{free_port()}"
    arguments = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"]
    running.enter_context(program.start(arguments, {}, within=prometheus))

    def up():
        status, text = get(program, address, "/api/v1/query?query=sum(up)")
        results = json.loads(text)["data"]["result"] if status == 200 else []
        return bool(results) and results[0]["value"][1] == str(len(places.address))

    until("all members are scraped", up)
