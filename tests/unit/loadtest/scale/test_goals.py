"""A goal is judged by ratios to the single server; what was left out says so."""

from loadtest.figures import Figure
from loadtest.scale.goals import figures
from loadtest.scale.servers import ONE
from tests.unit.loadtest.scale.samples import run

CORES = 2


def judged(found: list[Figure], part: str) -> list[Figure]:
    return [figure for figure in found if part in figure.name]


def test_a_cluster_that_costs_as_much_as_a_server_meets_the_aims() -> None:
    cpu = judged(figures(run(), CORES), "Redis CPU a pair")
    assert [figure.verdict for figure in cpu] == ["aim met"] * 4


def test_a_cluster_that_costs_more_with_each_primary_misses_them() -> None:
    cpu = judged(figures(run(more_us=4), CORES), "Redis CPU a pair")
    assert [round(figure.value or 0, 2) for figure in cpu] == [1.16] * 4
    assert {figure.verdict for figure in cpu} == {"not met"}


def test_throughput_is_judged_by_what_the_cores_allow() -> None:
    two, three = judged(figures(run(), CORES), "pairs a second")
    assert (two.verdict, three.verdict) == ("aim met", "aim met")
    two, three = judged(figures(run(), 64), "pairs a second")
    assert two.value == 1
    assert round(three.value or 0, 2) == 0.67
    assert three.note == "24,000 of 36,000"


def test_what_was_not_measured_has_no_verdict() -> None:
    made = run(gates=False)
    del made.driven[ONE.name]
    made.paced.clear()
    found = figures(made, CORES)
    left_out = [
        figure.verdict
        for part in ("pairs a second", "p50 of a reserve", "paced", "a gate adds")
        for figure in judged(found, part)
    ]
    assert left_out == ["not measured"] * 6
