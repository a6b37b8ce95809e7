"""A short run for real: every part of it gives its figures, whatever they are."""

from dataclasses import replace

import pytest

from loadtest.scale import report
from loadtest.scale.gates import DIRECT
from loadtest.scale.pairs import KINDS
from loadtest.scale.run import CALLERS, QUICK, Size, Steps, measure, turned
from loadtest.scale.servers import REPLICATED, SINGLE, TWO

TINY = replace(QUICK, pairs=128, packed=512, seconds=0.2)


def test_every_ledger_comes_first_and_last() -> None:
    orders = [turned("abc", number) for number in range(6)]
    assert {order[0] for order in orders} == set("abc")
    assert {order[-1] for order in orders} == set("abc")
    assert all(sorted(order) == list("abc") for order in orders)


@pytest.mark.slow
async def test_ledgers_are_measured_in_every_round() -> None:
    shapes, begun = (SINGLE, TWO), list[str]()
    size: Size = replace(TINY, rounds=2, gate_seconds=0)
    steps = Steps(shapes, size, begun.append)
    run = await measure(shapes, size, steps)
    assert len(begun) == steps.total
    names = [shape.name for shape in shapes]
    assert list(run.shares) == names
    assert set(run.pairs) == {
        (name, kind.name, callers) for name in names for kind in KINDS for callers in CALLERS
    }
    assert all(len(samples) == 2 for samples in run.pairs.values())
    for name in names:
        assert len(run.driven[name]) == len(run.paced[name]) == 2
        assert all(sample.per_second > 0 for sample in run.driven[name])
    assert all(of.together > 1 for of in run.pairs[SINGLE.name, KINDS[0].name, max(CALLERS)])
    assert all(of.p99_ms >= of.p50_ms > 0 for of in run.paced[TWO.name])
    assert {table.name for table in report.tables(run, 2)} == {"cluster", "paced", "driven"}


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_gate_is_measured_on_one_server_and_on_a_cluster_with_replicas() -> None:
    shapes, begun = (SINGLE, REPLICATED), list[str]()
    steps = Steps(shapes, TINY, begun.append)
    run = await measure(shapes, TINY, steps)
    assert not run.missing
    assert len(begun) == steps.total
    assert set(run.gate_latencies) == {DIRECT, SINGLE.name, REPLICATED.name}
    carried = report.carries(run)
    assert carried is not None
    assert all(cost_us > 0 for cost_us in carried.values())
    assert all(of.replicas_us == 0 for of in run.gates[SINGLE.name])
