"""Two reports beside each other."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.tester.compare import change, comparison, rows
from loadtest.tester.report import BadReport, Report, read_report
from tests.support.upstreams import Sim, sim

from .plans import plan_for, report_of

__all__ = ["sim"]


def told(before: Report, after: Report) -> str:
    console = Console(file=StringIO(), width=120)
    console.print(comparison(before, after))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


async def test_figures_stand_beside_each_other_and_what_differs_is_said(sim: Sim) -> None:
    before = await report_of(plan_for(sim.url, rate=20, arrivals="constant"))
    after = await report_of(plan_for(sim.url, rate=30, arrivals="constant"))
    found = {name: (old, new) for name, old, new, _ in rows(before, after)}
    for name, report in enumerate((before, after)):
        total = report.headline.gate.latencies["total"].percentiles_ms
        assert found["full response p99"][name] == total["p99"]
    text = told(before, after)
    assert "! they differ in rate" in text
    assert "full response p99" in text
    assert "between frames" not in text  # neither has streams


async def test_equal_reports_differ_in_nothing(sim: Sim) -> None:
    report = await report_of(plan_for(sim.url, rate=20))
    text = told(report, report)
    assert "differ" not in text
    assert "%" not in {line.split()[-1] for line in text.splitlines() if line.strip()}


def test_a_change_is_told_in_percent_of_the_first() -> None:
    assert [change(2, 3), change(4, 3), change(2, 2)] == ["+50%", "-25%", "="]
    assert [change(None, 3), change(2, None), change(0, 3), change(-1, 3)] == [""] * 4


def test_what_is_no_report_says_why(tmp_path: Path) -> None:
    with pytest.raises(BadReport, match="No such file"):
        read_report(tmp_path / "none.html")
    (tmp_path / "other.json").write_text('{"format": 7}')
    with pytest.raises(BadReport, match="no report of a load test: format"):
        read_report(tmp_path / "other.json")
