"""A cluster of real processes: who owns what, before and after each kind of failure."""

import pytest
import redis

from loadtest.tls import make_tls_files
from loadtest.topology.cluster import Cluster, slot_of
from loadtest.topology.moves import move_classic
from loadtest.topology.node import NodeFailed
from loadtest.topology.options import Access, Options
from loadtest.topology.view import SLOTS
from tests.support.topology import Topologies, shared_topologies, topologies

__all__ = ["shared_topologies", "topologies"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(shared_topologies: Topologies) -> Cluster:
    return shared_topologies.cluster()


def test_each_slot_has_one_primary_and_each_primary_a_replica(cluster: Cluster) -> None:
    primaries = cluster.primaries()
    assert len(primaries) == 3
    assert sum(len(cluster.slots(node)) for node in primaries) == SLOTS
    assert all(len(cluster.replicas(node)) == 1 for node in primaries)
    assert len(cluster.replicas()) == 3
    assert len({str(address) for address in cluster.addresses}) == 6


def test_a_key_is_taken_by_the_primary_of_its_slot_alone(cluster: Cluster) -> None:
    owner = cluster.primary_of("{acme}:wallet")
    assert owner is cluster.owner(slot_of("{acme}:other"))
    owner.ask("SET", "{acme}:wallet", 5)
    for other in cluster.primaries():
        if other is not owner:
            with pytest.raises(redis.exceptions.MovedError):
                other.ask("GET", "{acme}:wallet")


def test_a_killed_primary_is_replaced_by_its_replica_and_returns_as_one(cluster: Cluster) -> None:
    old = cluster.primary_of("{acme}")
    [replica] = cluster.replicas(old)
    old.ask("SET", "{acme}:kept", 7)
    assert old.ask("WAIT", 1, 5000) == 1
    new = cluster.kill(old)
    assert new is replica
    assert new is cluster.primary_of("{acme}")
    assert new.ask("GET", "{acme}:kept") == "7"
    assert old not in cluster.primaries()
    cluster.rejoin(old)
    assert cluster.replicas(new) == [old]


def test_a_frozen_primary_is_replaced_and_thaws_as_a_replica(cluster: Cluster) -> None:
    old = cluster.primary_of("{acme}")
    new = cluster.freeze(old)
    assert new is not old
    cluster.rejoin(old)
    assert cluster.replicas(new) == [old]


@pytest.mark.parametrize("how", ["", "FORCE", "TAKEOVER"])
def test_a_replica_takes_over_when_asked(cluster: Cluster, how: str) -> None:
    old = cluster.primary_of("{acme}")
    [replica] = cluster.replicas(old)
    cluster.failover(replica, how)
    assert cluster.primary_of("{acme}") is replica
    assert cluster.replicas(replica) == [old]


def test_a_cluster_grows_by_a_primary_and_its_replica(topologies: Topologies) -> None:
    cluster = topologies.cluster(replicas=0)
    added = cluster.add_primary()
    assert cluster.slots(added) == frozenset()
    assert added in cluster.primaries()
    move_classic(cluster, [0, 1], added)
    assert cluster.slots(added) == {0, 1}
    replica = cluster.add_replica(added)
    assert cluster.replicas() == [replica]


def test_a_slot_whose_primary_is_dead_has_no_owner_until_it_returns(topologies: Topologies) -> None:
    cluster = topologies.cluster(replicas=0, options=Options(access=Access("gate", "pass word")))
    old = cluster.owner(0)
    old.kill9()
    with pytest.raises(NodeFailed, match="owns slot 0"):
        cluster.owner(0)
    old.restart()
    cluster.wait_agreed()
    assert cluster.owner(0) is old


def test_all_processes_end_with_the_block_even_on_an_error(topologies: Topologies) -> None:
    cluster = topologies.cluster(replicas=0)
    cluster.primaries()[0].freeze()
    cluster.stop()
    cluster.stop()
    assert not any(node.running for node in cluster.nodes)
    with pytest.raises(NodeFailed, match="no-such-setting"):
        topologies.cluster(options=Options(settings={"no-such-setting": "1"}))


@pytest.mark.debian
def test_a_cluster_of_redis_7_with_tls_and_a_user(
    topologies: Topologies, tmp_path_factory: pytest.TempPathFactory
) -> None:
    access = Access("gate", "pass", make_tls_files(tmp_path_factory.mktemp("tls")))
    cluster = topologies.cluster(options=Options(binary="redis-server", access=access))
    old = cluster.primary_of("{acme}")
    target = next(node for node in cluster.primaries() if node is not old)
    old.ask("SET", "{acme}:kept", 7)
    move_classic(cluster, [slot_of("{acme}")], target)
    assert target.ask("GET", "{acme}:kept") == "7"
    new = cluster.kill(target)
    cluster.rejoin(target)
    assert new.ask("GET", "{acme}:kept") == "7"
