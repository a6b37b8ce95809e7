"""The metrics on the pages are those that a gate exposes."""

import re
from pathlib import Path

import pytest

from gateway.telemetry.exposition import render
from gateway.telemetry.metrics import Snapshot, sum_snapshots
from gateway.telemetry.names import GateMetrics, SupervisorMetrics, exporter_snapshot

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = re.compile(r"\bcreditgate_[a-z0-9_]*[a-z0-9](?:\{([a-z,_]+)\})?")


def exposed() -> Snapshot:
    """Every metric of every process, with its labels."""
    return sum_snapshots(
        [
            GateMetrics().registry.snapshot(),
            exporter_snapshot({}),
            SupervisorMetrics().registry.snapshot(),
        ],
        [],
    )


def named(page: Path) -> list[tuple[str, list[str] | None]]:
    """The metrics that a page names, each with the labels that it names."""
    found = NAMED.finditer(page.read_text())
    return [(m[0].partition("{")[0], m[1].split(",") if m[1] else None) for m in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_documented_metric_is_exposed_with_the_labels_that_are_named(page: Path) -> None:
    metrics = exposed()
    wrong = [
        (name, labels)
        for name, labels in named(page)
        if name not in metrics or labels not in (None, list(metrics[name]["labels"]))
    ]
    assert wrong == []


def test_every_exposed_metric_is_documented() -> None:
    documented = {name for name, _ in named(ROOT / "docs" / "operations.md")}
    assert documented == set(exposed())


def test_the_names_are_those_that_prometheus_reads() -> None:
    text = render(exposed()).decode()
    assert "creditgate_" in text
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert set(types) == set(exposed())
