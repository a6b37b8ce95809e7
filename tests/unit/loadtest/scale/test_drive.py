"""Packed pairs reach the primary of their shard, each primary as many; anything but success is an error."""

from pathlib import Path

import pytest

from loadtest.scale.drive import TOGETHER, NotServed, Packed, deal, drive, record, writes
from loadtest.scale.pairs import PLAIN
from loadtest.scale.servers import SINGLE, Ledger, Shape, running


class Halves(Ledger):
    """A ledger whose first primary has the first quarter of 64 shards."""

    def owner(self, shard: int) -> int:
        return int(shard >= 16)


async def test_pairs_are_packed_for_all_shards_in_turns() -> None:
    packed = await record(PLAIN, 130, "t")
    assert {pair.shard for pair in packed} == set(range(64))
    assert len({pair.reserve for pair in packed}) == len(packed), "each has its own id"
    for pair in packed:
        assert pair.reserve.startswith(b"*")
        tag = b"{cg:%d}:" % pair.shard
        assert tag in pair.reserve
        assert tag in pair.settle


async def test_each_primary_gets_as_many_pairs_of_its_own() -> None:
    ledger = Halves(Shape(2), "", [object(), object()], [])  # type: ignore[list-item]
    first, second = deal(await record(PLAIN, 640, "t"), ledger)
    assert len(first) == len(second) == 160 - 160 % TOGETHER
    assert all(pair.shard < 16 for pair in first)
    assert all(pair.shard >= 16 for pair in second)


def test_reserves_leave_before_their_settles() -> None:
    pairs = [Packed(0, b"r%d" % number, b"s%d" % number) for number in range(TOGETHER + 1)]
    first, last = writes(pairs)
    assert first.startswith(b"r0r1")
    assert first.endswith(b"s%d" % (TOGETHER - 1))
    assert last == b"r%d" % TOGETHER + b"s%d" % TOGETHER


@pytest.mark.slow
async def test_a_call_that_is_refused_ends_the_sample(tmp_path: Path) -> None:
    packed = await record(PLAIN, 2 * TOGETHER, "t")
    with (
        running(SINGLE, tmp_path) as ledger,
        pytest.raises(NotServed, match="unknown_account"),
    ):
        drive(ledger, deal(packed, ledger))  # nobody has made the customers
