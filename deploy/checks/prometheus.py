"""Prometheus and Grafana: configurations, alert rules and their tests, and what Grafana is provisioned with."""
import re
import shutil
from pathlib import Path

from .program import temporary
from .report import expect
from .tools import DEPLOY, ROOT, of_prometheus, read_yaml, run

GRAFANA = DEPLOY / "grafana"
CONFIGURATIONS = [GRAFANA / "prometheus.yml", DEPLOY / "compose" / "prometheus.yml", DEPLOY / "kubernetes" / "prometheus.yml"]


def check(report, program):
    for file in CONFIGURATIONS:
        with report.check(f"Prometheus accepts {file.relative_to(DEPLOY)}"):
            accepted(file)
    with report.check("the alert rules pass their tests"):
        run(of_prometheus("promtool"), "test", "rules", GRAFANA / "alerts_test.yml")
    with report.check("every alert is tested, both ways"):
        every_alert_is_tested()
    with report.check("the runbook explains every alert, and no other"):
        program.needs("runbook")
        runbook_is_complete()
    with report.check("Grafana has the same data sources in compose as the dashboards ask for"):
        data_sources_agree()


def accepted(file):
    """With what it refers to in place: Prometheus looks whether files are there."""
    promtool = of_prometheus("promtool")
    with temporary() as folder:
        folder = Path(folder)
        text = file.read_text()
        for path in set(re.findall(r"(?:ca_file|credentials_file): (/[\w./-]+)", text)):
            here = folder / path.lstrip("/")
            here.parent.mkdir(parents=True, exist_ok=True)
            here.write_text("something")
            text = text.replace(path, str(here))
        if "kubernetes_sd_configs" in text and "debian" in run(promtool, "--version"):
            print("   SKIPPED: discovery of pods: Debian's build of promtool has none of it")
            text = re.sub(r"kubernetes_sd_configs:\n((?: {6,}.*\n)+)", "static_configs: []\n", text)
        (folder / "prometheus.yml").write_text(text)
        shutil.copy(GRAFANA / "alerts.yml", folder)
        run(promtool, "check", "config", folder / "prometheus.yml")


def alerts():
    rules = [rule for group in read_yaml(GRAFANA / "alerts.yml")["groups"] for rule in group["rules"]]
    names = [rule["alert"] for rule in rules]
    expect(len(set(names)) == len(names), "two alerts share a name")
    for rule in rules:
        about = {"summary", "description", "runbook"}
        expect(about <= rule["annotations"].keys(), f"{rule['alert']} lacks some of {about}")
        expect(rule["labels"]["severity"] in ("page", "ticket"), f"{rule['alert']} has no severity that is known")
        expect(rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}", f"{rule['alert']}: its runbook")
    return set(names)


def every_alert_is_tested():
    cases = [case for test in read_yaml(GRAFANA / "alerts_test.yml")["tests"] for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    is_quiet = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    expect(not alerts() - fires, f"no test has them fire: {alerts() - fires}")
    expect(not alerts() - is_quiet, f"no test has them quiet: {alerts() - is_quiet}")


def runbook_is_complete():
    text = (ROOT / "docs" / "runbook.md").read_text()
    headings = set(re.findall(r"^#+ `?(Tidemark\w+)`?\s*$", text, re.M))
    expect(headings == alerts(), f"not in both: {sorted(headings ^ alerts())}")


def data_sources_agree():
    def sources(file):
        return {(source["uid"], source["type"], source["name"]) for source in read_yaml(file)["datasources"]}

    here = DEPLOY / "compose" / "grafana" / "datasources.yml"
    expect(sources(here) == sources(GRAFANA / "provisioning" / "datasources" / "tidemark.yml"), "they differ")
    grafana = read_yaml(DEPLOY / "compose" / "compose.yaml")["services"]["grafana"]
    mounted = [volume.split(":")[1] for volume in grafana["volumes"]]
    provider = read_yaml(GRAFANA / "provisioning" / "dashboards" / "tidemark.yml")["providers"][0]
    expect(provider["options"]["path"] in mounted, "the dashboards are not where Grafana looks")
    for path in re.findall(r"\$__file\{(.*?)\}", here.read_text()):
        expect(Path(path).parent.as_posix() in mounted, f"{path} is not mounted")
