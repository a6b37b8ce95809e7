"""The simulation places shards as a cluster would, and loses nobody's load."""

import pytest
from redis.crc import key_slot

from gateway.ledger.codec.key_names import Keys
from loadtest.growth import skew


def test_shares_follow_zipfs_law_and_are_all_there_is() -> None:
    of = skew.shares(1000, 1.0)
    assert sum(of) == pytest.approx(1)
    assert of[0] / of[9] == pytest.approx(10)
    assert skew.shares(10, 0.0) == pytest.approx([0.1] * 10)


@pytest.mark.parametrize("name", skew.PLACEMENTS)
def test_every_placement_carries_the_whole_load(name: str) -> None:
    loads = skew.by_shard(skew.shares(2000, 0.8), 64, 0)
    assert sum(loads) == pytest.approx(1)
    of = skew.PLACEMENTS[name](loads, 8)
    assert len(of) == 8
    assert sum(of) == pytest.approx(1)
    assert max(of) >= max(loads), "a shard is never split"


def test_slots_are_those_of_a_cluster() -> None:
    loads = [0.0] * 64
    loads[7] = 1.0
    slot = key_slot(Keys().account(7, "anybody"))
    assert skew.slots(loads, 4) == [float(server == slot // 4096) for server in range(4)]


def test_dealt_shards_are_as_many_on_each_server_and_by_load_is_no_worse() -> None:
    assert skew.dealt([1.0] * 64, 16) == [4.0] * 16
    loads = skew.by_shard(skew.shares(5000, 1.0), 256, 1)
    assert max(skew.by_load(loads, 16)) <= max(skew.dealt(loads, 16))
    assert skew.by_load([5, 4, 3, 3, 3], 2) == [8, 10]


def test_the_hottest_wallet_bounds_what_more_servers_bring() -> None:
    hottest = skew.shares(3000, 1.2)[0]
    for case in skew.simulate(3000, populations=1):
        if case.exponent == 1.2:
            assert case.busiest >= hottest * case.servers
        if case.servers == 1:
            assert case.busiest == pytest.approx(1)
