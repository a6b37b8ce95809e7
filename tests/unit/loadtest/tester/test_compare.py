"""Two reports beside each other."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.tester.compare import change, comparison, rows
from loadtest.tester.report import BadReport, Report, read_report


def told(before: Report, after: Report) -> str:
    console = Console(file=StringIO(), width=120)
    console.print(comparison(before, after))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_figures_stand_beside_each_other_and_what_differs_is_said(
    plain: Report, stepped: Report
) -> None:
    found = {name: (old, new) for name, old, new, _ in rows(plain, stepped)}
    for name, report in enumerate((plain, stepped)):
        total = report.headline.gate.latencies["total"].percentiles_ms
        assert found["full response p99"][name] == total["p99"]
    text = told(plain, stepped)
    assert "! they differ in" in text
    assert "full response p99" in text
    assert "between frames" not in text  # neither has streams


def test_equal_reports_differ_in_nothing(plain: Report) -> None:
    text = told(plain, plain)
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
