"""Kubernetes: what kustomize makes, against the schemas of several versions, against our own rules, and started."""
import re
from contextlib import ExitStack
from pathlib import Path

from .program import get, own_network, read, temporary, until
from .report import Failed, Skipped, expect
from .tools import DEPLOY, module, on_machine, run

FOLDER = DEPLOY / "kubernetes"
BUILDS = ["base", "overlays/development"]
# The oldest version that has what is used (preStop.sleep without a feature gate), one between, and the newest that is known.
VERSIONS = ["1.30.0", "1.32.0", "1.37.0"]
# What an operator makes: see deploy/README.md.
SECRETS = {"tidemark-tls", "tidemark-tokens", "tidemark-cluster", "tidemark-store"}
UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def check(report, program):
    for build in BUILDS:
        with report.check(f"kustomize builds {build}, and Kubernetes {' '.join(VERSIONS)} have all of it"):
            validated(build)
        with report.check(f"pods of {build} are closed, drain in time, and keep to their memory"):
            pods_are_sound(build)
        with report.check(f"services, budgets and policies of {build} select pods"):
            selectors_select(build)
        with report.check(f"the commands of the README make the secrets of {build}"):
            secrets_are_made(build, program)
        with report.check(f"a node and a coordinator start with the settings of {build}"):
            starts(build, program)


def built(build):
    """The objects that kustomize makes."""
    try:
        text = run(on_machine("kustomize"), "build", FOLDER / build)
    except Skipped:
        kubectl = on_machine("kubectl", "kustomize")
        text = run(kubectl, "kustomize", FOLDER / build)
    return [document for document in module("yaml").safe_load_all(text) if document]


def validated(build):
    schemas = module("kubernetes_validate")
    for document in built(build):
        for version in VERSIONS:
            try:
                schemas.validate(document, version, strict=True)
            except Exception as why:
                raise Failed(f"{document['kind']} {document['metadata']['name']} against {version}: {why}") from why


def pods(documents):
    """Every pod template: (what it is of, its labels, its spec)."""
    for document in documents:
        template = document.get("spec", {}).get("template")
        if template:
            name = f"{document['kind']} {document['metadata']['name']}"
            yield name, template["metadata"].get("labels", {}), template["spec"]


def settings(build, role):
    """The settings file of a role, as kustomize puts it into a ConfigMap."""
    import tomllib

    of_role = [
        document["data"][f"{role}.toml"]
        for document in built(build)
        if document["kind"] == "ConfigMap" and f"{role}.toml" in document["data"]
    ]
    expect(len(of_role) == 1, f"{len(of_role)} ConfigMaps have {role}.toml")
    return of_role[0], tomllib.loads(of_role[0])


def amount(text):
    number, unit = re.fullmatch(r"(\d+)(\w*)", str(text)).groups()
    return int(number) * UNITS[unit]


def pods_are_sound(build):
    documents = built(build)
    for name, labels, pod in pods(documents):
        of_pod = pod["securityContext"]
        expect(of_pod["runAsNonRoot"] and of_pod["runAsUser"] > 0, f"{name} may run as root")
        expect(of_pod["seccompProfile"]["type"] == "RuntimeDefault", f"{name} has no seccomp profile")
        expect(pod["automountServiceAccountToken"] is False, f"{name} gets a token that it does not need")
        for container in pod["containers"]:
            of = container["securityContext"]
            closed = of["readOnlyRootFilesystem"] and of["allowPrivilegeEscalation"] is False
            expect(closed and of["capabilities"] == {"drop": ["ALL"]}, f"{name} may do more than it needs")
            expect(re.search(r":(v?\d|RELEASE\.\d)", container["image"]), f"{name}: {container['image']} has no version")
            expect("memory" in container["resources"]["limits"], f"{name} may take all memory")
            if labels.get("app.kubernetes.io/name") == "tidemark":
                member_is_sound(build, name, labels["app.kubernetes.io/component"], pod, container)
        used = [volume["secret"]["secretName"] for volume in pod.get("volumes", []) if "secret" in volume]
        used += [source["secretRef"]["name"] for container in pod["containers"] for source in container.get("envFrom", [])]
        keys = [env.get("valueFrom", {}).get("secretKeyRef") for container in pod["containers"] for env in container.get("env", [])]
        used += [key["name"] for key in keys if key]
        expect(set(used) <= SECRETS, f"{name}: {set(used) - SECRETS} are described nowhere")
    node, coordinator = settings(build, "node")[1], settings(build, "coordinator")[1]
    for shared in ("shards", "replication", "seeds", "dimensions", "measures", "cluster"):
        expect(node.get(shared) == coordinator.get(shared), f"{shared} is not the same for nodes and coordinators")


def member_is_sound(build, name, role, pod, container):
    for probe, path in [("startupProbe", "/healthz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")]:
        ask = container[probe]["httpGet"]
        expect((ask["path"], ask["scheme"]) == (path, "HTTPS"), f"{name}: {probe} asks {ask}")
    # A copy as a file in a folder would never change.
    expect(not any("subPath" in mount for mount in container["volumeMounts"]), f"{name}: certificates could not be renewed")
    if role == "node":
        of = settings(build, "node")[1]
        limit, budget = amount(container["resources"]["limits"]["memory"]), amount(of["memory_budget"])
        expect(budget * 4 <= limit * 3, f"{name}: memory_budget is more than three quarters of the limit")
        expect(amount(container["resources"]["requests"]["memory"]) == limit, f"{name}: memory that it may lose to neighbours")
        needs_s = int(of["drain_timeout"].rstrip("s")) + container["lifecycle"]["preStop"]["sleep"]["seconds"]
        expect(pod["terminationGracePeriodSeconds"] > needs_s + 10, f"{name}: killed while it may still drain")


def secrets_are_made(build, program):
    """Runs the README's `kubectl create secret` without a cluster; what they make has to be what pods use."""
    kubectl = on_machine("kubectl")
    namespace = next(document["metadata"]["name"] for document in built(build) if document["kind"] == "Namespace")
    commands = re.findall(rf"^kubectl (-n {namespace} create secret .*)$", (DEPLOY / "README.md").read_text(), re.M)
    commands = [command.replace("$(openssl rand -hex 16)", "secret").replace('"', "") for command in commands]
    with temporary() as folder:
        secrets = Path(folder) / "secrets"
        if program.has("tls"):
            program.secrets(secrets, ["localhost"])
        else:
            for name in ("tls/ca.crt", "tls/tls.crt", "tls/tls.key", "tokens/tokens", "cluster/key"):
                (secrets / name).parent.mkdir(parents=True, exist_ok=True)
                (secrets / name).write_text("something")
        made = {}
        for command in commands:
            words = command.replace("deploy/secrets", str(secrets)).split()
            secret = module("yaml").safe_load(run(kubectl, *words, "--dry-run=client", "-o", "yaml"))
            made[secret["metadata"]["name"]] = set(secret["data"])
        wanted = {
            "tidemark-tls": {"ca.crt", "tls.crt", "tls.key"},
            "tidemark-tokens": {"tokens"},
            "tidemark-cluster": {"key"},
            "tidemark-store": {"AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
        }
        # What is made in the same way is shown once, in the base.
        for name in made if build != "base" else wanted:
            expect(wanted[name] <= made.get(name, set()), f"{name} is made with {made.get(name)}, not {wanted[name]}")
        expect(made, f"no command makes a secret in {namespace}")


def selectors_select(build):
    documents = built(build)
    labels = [(name, labels) for name, labels, _ in pods(documents)]
    for document in documents:
        spec = document.get("spec", {})
        kind = document["kind"]
        selector = {
            "Service": lambda: spec["selector"],
            "PodDisruptionBudget": lambda: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda: spec["podSelector"]["matchLabels"],
        }.get(kind)
        if selector:
            chosen = [name for name, has in labels if selector().items() <= has.items()]
            expect(len(chosen) == 1, f"{kind} {document['metadata']['name']} selects {chosen}")
            if kind == "Service":
                ports = {port["name"] for name, _, pod in pods(documents) if name in chosen for port in pod["containers"][0]["ports"]}
                targets = {port["targetPort"] for port in spec["ports"]}
                expect(targets <= ports, f"Service {document['metadata']['name']}: no port {targets - ports}")


def starts(build, program):
    """With the settings of the ConfigMaps and of the pods' environment; the addresses are this machine's."""
    network = own_network()
    address = {"node": f"{network}.2:7100", "coordinator": f"{network}.3:8100"}
    documents = built(build)
    with temporary() as folder, ExitStack() as running:
        folder = Path(folder)
        program.secrets(folder / "secrets", ["tidemark-nodes", "tidemark", "localhost", *(at.split(":")[0] for at in address.values())])
        ca = folder / "secrets" / "clients" / "ca.crt"
        members = {}
        for role, at in address.items():
            text, _ = settings(build, role)
            text = text.replace("tidemark-nodes:7100", address["node"]).replace("0.0.0.0", at.split(":")[0])
            text = text.replace("/etc/tidemark/", f"{folder}/secrets/").replace("/var/lib/tidemark", f"{folder}/data")
            text = re.sub(r'^store = .*$', f'store = "{folder}/history"', text, flags=re.M)
            if not program.has("tls"):
                text = re.sub(r"^(tls|tokens) = .*\n", "", text, flags=re.M)
            (folder / f"{role}.toml").write_text(text)
            container = next(
                pod["containers"][0] for _, labels, pod in pods(documents) if labels.get("app.kubernetes.io/component") == role
            )
            given = {
                "TIDEMARK_CONFIG": str(folder / f"{role}.toml"), "TIDEMARK_ID": f"tidemark-{role}-0",
                "TIDEMARK_ADVERTISE": at, "TIDEMARK_CLUSTER_KEY": "sixteen characters",
            }
            names = {env["name"] for env in container["env"] if env["name"].startswith("TIDEMARK_")}
            expect(names == given.keys(), f"the pod of a {role} has {names}")
            program.knows(role, names)
            members[role] = running.enter_context(program.start(container["args"], given))
        members["node"].until_answers(address["node"], "/readyz", ca)
        members["coordinator"].until_answers(address["coordinator"], "/readyz", ca)
        if program.has("tls"):
            token = read(folder / "secrets" / "clients" / "admin")
            until("/metrics", lambda: get(program, address["node"], "/metrics", ca, token)[0] == 200)
        members["coordinator"].stop(30)
        members["node"].stop(130)
