"""The cost of a request is measured on a real gate, and its calls are counted."""

import sys
from pathlib import Path

import pytest

from loadtest import gate_cost

HERE = Path(__file__).parents[2]


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gate_cost", "--only", "JSON c=32", *words])
    gate_cost.main()


@pytest.mark.slow
def test_two_checkouts_are_measured_side_by_side(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "--rounds", "1", "--seconds", "0.3", "--against", str(HERE))
    row = next(line for line in capsys.readouterr().out.splitlines() if "JSON c=32" in line)
    ours, theirs, ratio = (float(cell.replace(",", "")) for cell in row.split("│")[2:5])
    assert ours > 0
    assert theirs > 0
    assert ratio == pytest.approx(ours / theirs, rel=0.02)
