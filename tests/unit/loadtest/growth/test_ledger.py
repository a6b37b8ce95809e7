"""Sizes are measured in turns, each as often as the others, and shown."""

import io
from pathlib import Path

from rich.console import Console

from loadtest.growth import __main__ as growth
from loadtest.growth import chart, places
from loadtest.growth.ledger import Measured, Point, measure
from loadtest.growth.places import Dimension


def point(size: int, *cpu_us: float) -> Point:
    return Point(size, list(cpu_us), [1.0], 0.1, 1000)


async def test_every_size_is_measured_in_every_round() -> None:
    dimension = Dimension("servers", "Servers", "servers", (1, 2), places.spread, lambda n: n)
    measured = await measure(dimension, pairs=64, rounds=2)
    assert measured.server.startswith("valkey ")
    assert [one.size for one in measured.points] == [1, 2]
    for one in measured.points:
        assert len(one.cpu_us) == len(one.p50_ms) == 2
        assert one.least_us > 0
        assert one.used_bytes > 0


def test_what_a_size_costs_more_is_compared_within_its_round() -> None:
    # the second round was disturbed, both sizes alike
    points = [point(10, 50, 100, 50), point(1000, 60, 120, 55)]
    measured = Measured("valkey", points)
    assert measured.times_first() == [1, 1.2]
    slope = measured.per_tenfold_us()
    assert slope is not None
    assert round(slope, 6) == 2.5
    assert Measured("valkey", points[:1]).per_tenfold_us() is None


def test_a_dimension_shows_as_table_and_chart(tmp_path: Path) -> None:
    (dimension,) = (one for one in places.DIMENSIONS if one.name == "holds")
    measured = [
        Measured(name, [point(10, 50, 60), point(100_000, 55, 70)]) for name in ("ours", "other")
    ]
    console = Console(width=100, record=True, file=io.StringIO())
    growth.show(dimension, measured, console)
    shown = console.export_text()
    assert "100,000" in shown
    assert "other" in shown
    chart.draw(growth.panels(dimension, measured), tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert "Open holds" in drawn
    assert "100k" in drawn
    assert "other" in drawn
    assert chart.INK in drawn
    chart.draw(growth.panels(dimension, measured), tmp_path / "b.svg")
    assert (tmp_path / "b.svg").read_text() == drawn, "a chart of the same figures is the same file"
