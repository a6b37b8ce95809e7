"""Slots that move with their keys, and what clients are answered meanwhile."""

import pytest
import redis
from redis.exceptions import AskError, MovedError, TryAgainError

from loadtest.topology.cluster import Cluster, slot_of
from loadtest.topology.moves import ClassicMove, migrations, move_atomic, move_classic, start_atomic
from loadtest.topology.node import Node, until
from tests.support.topology import Topologies, shared_topologies

__all__ = ["shared_topologies"]

pytestmark = pytest.mark.slow
SLOT = slot_of("{acme}")
KEYS = 250


@pytest.fixture(scope="module")
def cluster(shared_topologies: Topologies) -> Cluster:
    found = shared_topologies.cluster()
    owner = found.owner(SLOT)
    for n in range(KEYS):
        owner.ask("SET", f"{{acme}}:{n}", n)
    return found


def another(cluster: Cluster) -> Node:
    owner = cluster.owner(SLOT)
    return next(node for node in cluster.primaries() if node is not owner)


def test_a_classic_move_takes_all_keys_along_and_back(cluster: Cluster) -> None:
    source, target = cluster.owner(SLOT), another(cluster)
    move_classic(cluster, [SLOT], target)
    assert cluster.owner(SLOT) is target
    assert target.ask("CLUSTER", "COUNTKEYSINSLOT", SLOT) == KEYS
    assert source.ask("DBSIZE") == 0
    [replica] = cluster.replicas(target)
    until(lambda: replica.ask("DBSIZE") == KEYS, "the keys at the replica")
    move_classic(cluster, [SLOT], source)
    assert source.ask("CLUSTER", "COUNTKEYSINSLOT", SLOT) == KEYS


def test_clients_are_asked_to_follow_or_to_try_again_in_the_middle_of_a_classic_move(
    cluster: Cluster,
) -> None:
    move = ClassicMove(cluster, SLOT, another(cluster), page=100)
    seen: set[str] = set()

    def look() -> None:
        staying = move.source.ask("CLUSTER", "GETKEYSINSLOT", SLOT, 1000)
        assert len(staying) == KEYS - 100
        moved = next(key for n in range(KEYS) if (key := f"{{acme}}:{n}") not in staying)
        assert move.source.ask("GET", staying[0])
        with pytest.raises(AskError):
            move.source.ask("GET", moved)
        with pytest.raises(TryAgainError):
            move.source.ask("MGET", staying[0], moved)
        with pytest.raises(MovedError):
            move.target.ask("GET", moved)
        seen.add("middle")

    move.run(look)
    cluster.wait_agreed()
    assert seen == {"middle"}
    assert cluster.owner(SLOT) is move.target
    with pytest.raises(MovedError):
        move.source.ask("GET", "{acme}:0")


def test_a_move_can_be_abandoned_and_begun_again(cluster: Cluster) -> None:
    move = ClassicMove(cluster, SLOT, another(cluster), page=10)
    move.begin()
    assert move.move_page() == 10
    move.abandon()
    assert cluster.owner(SLOT) is move.source
    assert move.source.ask("CLUSTER", "COUNTKEYSINSLOT", SLOT) == KEYS - 10
    ClassicMove(cluster, SLOT, move.target).run()
    cluster.wait_agreed()
    assert move.target.ask("CLUSTER", "COUNTKEYSINSLOT", SLOT) == KEYS


def test_an_atomic_move_takes_a_range_with_its_keys(cluster: Cluster) -> None:
    source, target = cluster.owner(SLOT), another(cluster)
    if cluster.owner(SLOT + 1) is not source:  # a test before this one moved only one of them
        move_atomic(cluster, SLOT + 1, SLOT + 1, source)
    move_atomic(cluster, SLOT, SLOT + 1, target)
    assert cluster.slots(target) >= {SLOT, SLOT + 1}
    assert target.ask("CLUSTER", "COUNTKEYSINSLOT", SLOT) == KEYS
    assert source.ask("CLUSTER", "COUNTKEYSINSLOT", SLOT) == 0
    assert migrations(source)[0]["state"] == "success"


def test_an_atomic_move_of_slots_that_the_source_does_not_own_is_refused(cluster: Cluster) -> None:
    source, target = cluster.owner(SLOT), another(cluster)
    elsewhere = min(cluster.slots(target))
    with pytest.raises(redis.ResponseError):
        start_atomic(cluster, source, range(elsewhere, elsewhere + 1), target)
