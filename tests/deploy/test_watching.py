"""The dashboard and the alerts: current, about metrics that exist, each alert with a runbook."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.telemetry.metrics import Snapshot
from gateway.telemetry.names import GateMetrics, SupervisorMetrics, exporter_snapshot
from tests.deploy import write_dashboard

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "config/deploy/prometheus"
NAME = re.compile(r"\bcreditgate_[a-z0-9_]+")


def metric_names() -> set[str]:
    """The names of all series, those of histograms in their parts."""
    names: set[str] = set()
    snapshots: list[Snapshot] = [
        GateMetrics().registry.snapshot(),
        SupervisorMetrics().registry.snapshot(),
        exporter_snapshot({}),
    ]
    for snapshot in snapshots:
        for name, family in snapshot.items():
            if family["kind"] == "histogram":
                names |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
            else:
                names.add(name)
    return names


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_dashboard_is_what_its_program_writes() -> None:
    told = "run `python -m tests.deploy.write_dashboard`"
    assert write_dashboard.FILE.read_text() == write_dashboard.dashboard(), told


def test_every_metric_of_the_dashboard_exists() -> None:
    board = json.loads(write_dashboard.FILE.read_text())
    named = {
        name
        for panel in board["panels"]
        for target in panel.get("targets", [])
        for name in NAME.findall(target["expr"])
    }
    assert len(named) > 20
    assert named <= metric_names()


def test_every_metric_of_the_alerts_exists() -> None:
    named = {name for rule in rules() for name in NAME.findall(rule["expr"])}
    assert len(named) > 15
    assert named <= metric_names()


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_has_a_runbook_a_severity_and_a_test(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    text = (ROOT / page).read_text()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    assert not anchor or anchor in {each.lower().replace(" ", "-") for each in headings}
    assert rule["labels"]["severity"] in ("critical", "warning")
    tests = yaml.safe_load((PROMETHEUS / "rules.test.yaml").read_text())["tests"]
    assert rule["alert"] in {test["name"] for test in tests}
    quiet = {each["alertname"] for each in tests[0]["alert_rule_test"]}
    assert rule["alert"] in quiet, "a healthy gate must not raise it"


@pytest.mark.debian
@pytest.mark.parametrize("command", ["check rules rules.yaml", "test rules rules.test.yaml"])
def test_promtool_accepts_the_rules_and_each_alert_fires_on_its_condition(command: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool (Debian's prometheus)")
    done = subprocess.run(
        ["promtool", *command.split()], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
