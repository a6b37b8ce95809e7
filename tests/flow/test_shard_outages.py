"""The time without admission is counted from the first refusal until the shard is seen to serve."""

from pathlib import Path

import pytest
import redis.asyncio

from gateway.domain.delivery import Place
from gateway.flow.refusals import Refused
from gateway.flow.shard_outages import ShardOutages
from gateway.ledger.client.errors import LedgerUnavailable, ShardClosed
from gateway.telemetry.metrics import Registry
from tests.flow.desk import Desk


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Measured:
    """Outages by a clock of their own."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.clock = Clock()
        family = self.registry.counter("seconds_total", "Seconds.", ("shard", "worker"))
        self.outages = ShardOutages(family, "worker-1", self.clock)

    @property
    def seconds(self) -> dict[str, float]:
        samples = self.registry.snapshot()["seconds_total"]["samples"]
        return {labels[0]: value for labels, value in samples}


def test_an_outage_counts_from_its_first_refusal_to_the_look_that_ends_it() -> None:
    measured = Measured()
    outages, clock = measured.outages, measured.clock
    outages.refused(3, LedgerUnavailable("away"))
    clock.now_s += 2
    outages.refused(3)
    clock.now_s += 5
    outages.serve([1, 2])
    assert outages.shut == {3}
    clock.now_s += 1
    outages.serve([1, 2, 3])
    clock.now_s += 50
    outages.serve([3])
    assert outages.shut == frozenset()
    assert measured.seconds == {"3": 8.0}, "a shard without an outage has no series"


def test_an_outage_that_lasts_is_counted_while_it_lasts() -> None:
    measured = Measured()
    measured.outages.refused(0)
    for _ in range(3):
        measured.clock.now_s += 10
        measured.outages.count()
    assert measured.seconds == {"0": 30.0}


def test_a_lost_wallet_is_no_outage_of_its_shard() -> None:
    measured = Measured()
    measured.outages.refused(3, ShardClosed(3, "unknown_account"))
    assert measured.outages.shut == frozenset()
    measured.outages.refused(3, ShardClosed(3, "wrong_layout"))
    assert measured.outages.shut == {3}


@pytest.fixture
async def desk(valkey: redis.asyncio.Redis, tmp_path: Path) -> Desk:
    return await Desk(valkey, tmp_path).open()


async def test_a_request_refused_by_a_frozen_shard_begins_an_outage(desk: Desk) -> None:
    shard = desk.account.shard
    assert await desk.ledger.freeze(shard, Place(1, 99))
    with pytest.raises(Refused):
        await desk.run()
    assert desk.outages.shut == {shard}


async def test_a_request_refused_because_the_ledger_is_away_begins_an_outage(desk: Desk) -> None:
    desk.wire.down = True
    with pytest.raises(LedgerUnavailable):
        await desk.run()
    assert desk.outages.shut == {desk.account.shard}


async def test_a_request_refused_for_its_credit_begins_none(desk: Desk) -> None:
    with pytest.raises(Refused):
        await desk.run(input_bound=10_000_000_000)
    assert desk.outages.shut == frozenset()
