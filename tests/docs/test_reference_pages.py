"""The generated reference pages are what the code says; the handwritten ones name what exists."""

import re
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from gateway.cli.reference_pages import BLOCKS, PAGES, LogCall, fill, log_calls
from gateway.domain.events import Event, EventKind
from gateway.domain.usage_facts import FACT_FIELDS
from gateway.telemetry.exposition import render
from gateway.telemetry.log_events import MEANINGS
from gateway.telemetry.metrics import Snapshot, sum_snapshots
from gateway.telemetry.names import GateMetrics, SupervisorMetrics, exporter_snapshot

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
EVENTS = (REFERENCE / "events.md").read_text()
PROSE = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMED_METRIC = re.compile(r"\bcreditgate_[a-z0-9_]*[a-z0-9](?:\{([a-z,_]+)\})?")


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_up_to_date(name: str) -> None:
    assert (REFERENCE / name).read_text() == PAGES[name](), f"run `make docs`: {name} differs"


@pytest.mark.parametrize(("name", "part"), BLOCKS)
def test_a_generated_part_is_up_to_date(name: str, part: str) -> None:
    page = (REFERENCE / name).read_text()
    assert page == fill(page, part, BLOCKS[name, part]()), f"run `make docs`: {name} differs"


def test_a_part_that_a_page_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="0 parts named 'rules'"):
        fill("no marker", "rules", "")


def test_every_log_event_has_a_meaning_and_every_meaning_an_event() -> None:
    written = {call.name for call in log_calls() if call.name} | {"request", "library"}
    assert written == set(MEANINGS)


def test_only_readiness_words_are_computed() -> None:
    computed = Counter(call.file for call in log_calls() if call.name is None)
    assert computed == {"app/watching.py": 3}


def test_log_calls_are_found_by_name_and_level(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        'log.warning("late", by=1)\nself._log.exception("broke")\nlog.error(word)\nx.info("no")\n'
    )
    assert log_calls(tmp_path) == [
        LogCall("late", "warning", "a.py"),
        LogCall("broke", "exception", "a.py"),
        LogCall(None, "error", "a.py"),
    ]


def column(heading: str) -> list[str]:
    """First column of the table under a heading of the events page."""
    section = EVENTS.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE)


def test_the_events_page_lists_every_field_fact_and_kind() -> None:
    assert column("Fields") == [each.name for each in fields(Event)]
    assert column("Facts") == list(FACT_FIELDS)
    assert column("Kinds") == list(get_args(EventKind))


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


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_a_metric_that_a_page_names_exists_with_these_labels(page: Path) -> None:
    metrics = exposed()
    found = [(m[0].partition("{")[0], m[1]) for m in NAMED_METRIC.finditer(page.read_text())]
    wrong = [
        (name, labels)
        for name, labels in found
        if name not in metrics or labels not in (None, ",".join(metrics[name]["labels"]))
    ]
    assert wrong == []


def test_every_exposed_metric_is_on_the_reference_page() -> None:
    page = (REFERENCE / "metrics.md").read_text()
    assert set(re.findall(r"^\| `(creditgate_\w+)`", page, re.MULTILINE)) == set(exposed())


def test_the_names_are_those_that_prometheus_reads() -> None:
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", render(exposed()).decode(), re.MULTILINE))
    assert set(types) == set(exposed())
