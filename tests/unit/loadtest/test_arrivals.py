"""When requests are due: the shape of the gaps, and nothing handed over too early."""

import itertools
import random
import statistics
import time

import pytest

from loadtest.arrivals import Pace, Pacer, due_times

STEADY = Pace(rate=200, until_rate=200, warmup_s=0, seconds=100)


def gaps(dues: list[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(dues)]


def test_poisson_gaps_are_exponential() -> None:
    dues = list(due_times(STEADY, "poisson", random.Random(7)))
    assert len(dues) == pytest.approx(20_000, rel=0.03)
    found = gaps(dues)
    assert statistics.mean(found) == pytest.approx(1 / 200, rel=0.03)
    assert statistics.stdev(found) == pytest.approx(1 / 200, rel=0.05)  # as an exponential's is
    beyond = sum(gap > 3 / 200 for gap in found) / len(found)
    assert beyond == pytest.approx(2.718281828**-3, rel=0.15)


def test_several_processes_together_keep_a_poisson_rate() -> None:
    parts = [due_times(STEADY, "poisson", random.Random(n), part=n, parts=3) for n in range(3)]
    together = sorted(itertools.chain(*parts))
    assert len(together) == pytest.approx(20_000, rel=0.03)
    assert statistics.stdev(gaps(together)) == pytest.approx(1 / 200, rel=0.05)


def test_several_processes_together_space_a_constant_rate_evenly() -> None:
    pace = Pace(rate=50, until_rate=50, warmup_s=1, seconds=2)
    parts = [due_times(pace, "constant", random.Random(0), part=n, parts=3) for n in range(3)]
    together = sorted(itertools.chain(*parts))
    assert together == pytest.approx([n / 50 for n in range(150)])


def test_a_ramp_sends_as_much_as_lies_under_its_line_after_a_warm_up_at_its_start() -> None:
    pace = Pace(rate=10, until_rate=90, warmup_s=5, seconds=20)
    dues = list(due_times(pace, "constant", random.Random(0)))
    assert len(dues) == pytest.approx(5 * 10 + 20 * 50, abs=1)
    assert sum(due < 5 for due in dues) == 50
    assert sum(5 <= due < 15 for due in dues) == pytest.approx(10 * (10 + 50) / 2, abs=1)
    assert pace.rate_at(10) == 50


def test_a_falling_ramp_ends() -> None:
    pace = Pace(rate=100, until_rate=1, warmup_s=0, seconds=10)
    assert len(list(due_times(pace, "constant", random.Random(0)))) == pytest.approx(505, abs=2)


def test_the_pacer_hands_over_everything_in_order_and_nothing_before_its_time() -> None:
    start_s = time.monotonic()
    dues = [start_s + n / 1000 for n in range(100)]
    handed: list[float] = []
    early: list[float] = []
    ended: list[bool] = []

    def hand(batch: list[float]) -> None:
        now_s = time.monotonic()
        early.extend(due for due in batch if due > now_s)
        handed.extend(batch)

    pacer = Pacer(dues, hand, lambda: ended.append(True))
    pacer.start()
    pacer.join(30)
    assert handed == dues
    assert not early
    assert ended == [True]


def test_a_stopped_pacer_hands_over_nothing_more() -> None:
    handed: list[list[float]] = []
    pacer = Pacer([time.monotonic() + 3600], handed.append, lambda: handed.append([]))
    pacer.start()
    pacer.stop()
    pacer.join(30)
    assert handed == []
