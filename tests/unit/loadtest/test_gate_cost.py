"""The cost of a request is measured on a real gate, and the interpreter's work is counted."""

import sys
from pathlib import Path

import pytest

from loadtest import gate_cost

HERE = Path(__file__).parents[3]


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gate_cost", "--only", "JSON c=32", *words])
    gate_cost.main()


@pytest.mark.long
def test_two_checkouts_are_measured_side_by_side(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "--rounds", "1", "--seconds", "0.3", "--against", str(HERE))
    row = next(line for line in capsys.readouterr().out.splitlines() if "JSON c=32" in line)
    ours, theirs, ratio = (float(cell.replace(",", "")) for cell in row.split("│")[2:5])
    assert ours > 0
    assert theirs > 0
    assert ratio == pytest.approx(ours / theirs, rel=0.02)


@pytest.mark.slow
def test_the_interpreters_work_is_counted_by_function(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate_cost, "_COUNTED", 100)
    run(monkeypatch, "--bytecodes")
    out = capsys.readouterr().out
    assert "gateway/flow/handler.py" in out
    total = next(line for line in out.splitlines() if "calls and resumptions per request" in line)
    assert int(total.split(": ")[1].split()[0].replace(",", "")) > 1000
