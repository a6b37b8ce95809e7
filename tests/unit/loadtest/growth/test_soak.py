"""A soak notices what grows; its short form on a real gate drifts nowhere and leaves nothing."""

import asyncio
import io
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.generator import Result
from loadtest.growth import soak
from loadtest.growth.chart import draw
from loadtest.growth.gate import MIB
from loadtest.growth.soak import Bound, Series, Soaked, SoakFailed, judge, trend


def series(minutes: int, **grows: float) -> Series:
    """A sample a minute; memory begins at 50 MiB, and each grows so much a minute."""
    made = Series()
    for minute in range(minutes):
        sample = {
            "worker-0 memory": 50 * MIB + minute * grows.get("memory", 0),
            "exporter-0 memory": 50 * MIB + min(minute, 20) * grows.get("store", 0),
            "worker-0 descriptors": 20.0,
            "ledger records": 10 + 1000 * minute,
            "ledger used": MIB + minute * 1000 * (250 + minute * grows.get("record", 0)),
            "holds": 3.0,
            "outbox": 0.0,
        }
        made.add(60.0 * minute, sample)
    return made


def growing(made: Series, warm_s: float = 0.0) -> list[str]:
    return [one.name for one in judge(made, warm_s) if not one.good]


def test_what_stays_or_falls_is_good() -> None:
    assert growing(series(30), 60.0) == []
    assert growing(series(30, memory=-MIB, record=-5), 60.0) == []


@pytest.mark.parametrize(
    ("grows", "found"),
    [
        ({"memory": 0.3 * MIB}, "worker-0 memory"),
        ({"store": 3 * MIB}, "exporter-0 memory"),
        ({"record": 5}, "ledger, bytes a record"),
    ],
)
def test_what_grows_beyond_its_bound_is_named(grows: dict[str, float], found: str) -> None:
    assert growing(series(30, **grows), 60.0) == [found]


def test_the_exporter_may_fill_its_cache_and_no_more() -> None:
    assert growing(series(30, store=1.5 * MIB), 60.0) == []
    # full at the 20th minute: from then on it counts like any other
    assert growing(series(30, store=4 * MIB), 22 * 60.0) == []


def test_a_rise_is_that_of_the_line_and_its_bound_the_greater_of_two() -> None:
    found = trend("it", "bytes", [0.0, 1800.0, 3600.0], [100.0, 105.0, 110.0], Bound(0.05, 20.0))
    assert (round(found.start), round(found.rise), round(found.per_hour)) == (100, 10, 10)
    assert found.allowed == 20
    assert found.good
    assert Bound(0.5, 20.0).allows(100) == 50


def test_the_warm_up_counts_for_nothing_and_too_few_samples_are_no_verdict() -> None:
    made = series(30, memory=0.0)
    for minute in range(5):
        made.values["worker-0 memory"][minute] = minute * 10 * MIB
    assert growing(made) == ["worker-0 memory"]
    assert growing(made, 300.0) == []
    with pytest.raises(SoakFailed, match="only 2"):
        judge(made, 28 * 60.0)


def test_a_soak_is_good_only_if_nothing_drifts_and_nothing_is_left(tmp_path: Path) -> None:
    def soaked(drifts: str, left: int, memory: float, kept: int = 0) -> Soaked:
        made = series(30, memory=memory)
        result = Result()
        result.endings["whole"] = 5
        trends = judge(made, 60.0)
        rest = {"worker-0": 20}, {"worker-0": 20 + kept}
        return Soaked(30, 60.0, made, result, rest, {"holds": left}, drifts, "No drift.", trends)

    assert soaked("", 0, 0).good
    assert not soaked("1 drifts", 0, 0).good
    assert not soaked("", 1, 0).good
    assert soaked("", 0, 0, kept=8).good
    assert not soaked("", 0, 0, kept=9).good
    assert not soaked("", 0, MIB).good
    draw(soak.panels(soaked("", 0, 0)), tmp_path / "soak.svg")
    assert "Open descriptors" in (tmp_path / "soak.svg").read_text()
    console = Console(width=100, record=True, file=io.StringIO())
    soak.show(soaked("", 0, MIB), console)
    assert "GROWS" in console.export_text()
    assert soak.as_json(soaked("", 0, MIB))["good"] is False


@pytest.mark.slow
async def test_a_mixed_load_drifts_nowhere_and_leaves_nothing_behind(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    made = await asyncio.to_thread(soak.soak, 0.12, 40.0, console, tmp_path)
    assert made.drifts == ""
    assert made.left == {"holds": 0, "outbox": 0}
    assert made.kept == {}
    assert made.result.statuses.keys() >= {200, 401, 402, 429}
    assert made.result.endings.keys() <= {"whole", "left", "cut"}
    assert {one.name.partition(" ")[0] for one in made.trends} >= {
        "supervisor",
        "worker-0",
        "worker-1",
        "exporter-0",
    }
