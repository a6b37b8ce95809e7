"""Hosts that can be cut off or separated, and that leave nothing behind. Needs root and iproute2."""

import subprocess
import sys

import pytest
import redis

from loadtest.topology import hosts
from loadtest.topology.cluster import slot_of
from loadtest.topology.node import until
from tests.support.topology import Topologies, topologies

__all__ = ["topologies"]

pytestmark = [pytest.mark.slow, pytest.mark.debian]
CRASHES = """\
import os
from loadtest.topology.hosts import Network
print(Network().take().namespace, flush=True)
os._exit(1)
"""


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout


def test_a_primary_apart_from_the_rest_loses_its_slots_and_returns_as_a_replica(
    topologies: Topologies,
) -> None:
    network = topologies.network()
    cluster = topologies.cluster(places=network)
    slot = slot_of("{acme}")
    old = cluster.owner(slot)
    others = [node for node in cluster.nodes if node is not old]
    network.separate([old.address], [node.address for node in others])
    new = cluster.wait_for_election(slot, old)
    assert new is not old
    assert slot in cluster.slots(old), "it cannot know yet"
    assert cluster.owner(slot) is new
    until(lambda: "cluster_state:fail" in old.ask("CLUSTER", "INFO"), "its refusal to serve")
    with pytest.raises(redis.exceptions.ClusterDownError):
        old.ask("SET", "{acme}", 1)
    network.mend()
    cluster.rejoin(old)
    assert cluster.replicas(new) == [old]


def test_a_replica_that_was_cut_off_catches_up(topologies: Topologies) -> None:
    network = topologies.network()
    cluster = topologies.cluster(places=network)
    primary = cluster.primary_of("{acme}")
    [replica] = cluster.replicas(primary)
    network.cut(replica.address)
    with pytest.raises(redis.RedisError):
        replica.ask("PING", timeout_s=0.3)
    assert len(cluster.standing()) == 5
    primary.ask("SET", "{acme}", 1)
    network.mend()
    cluster.wait_agreed()
    until(lambda: replica.ask("DBSIZE") == 1, "the write at the replica")


def test_a_closed_network_leaves_nothing(topologies: Topologies) -> None:
    network = topologies.network()
    names = [network.take().namespace for _ in range(3)]
    assert all(name in namespaces() for name in names)
    network.close()
    network.close()
    assert not any(name in namespaces() for name in names)


def test_what_a_dead_process_left_is_removed_with_the_next_network(topologies: Topologies) -> None:
    topologies.network()
    crashed = subprocess.run([sys.executable, "-c", CRASHES], capture_output=True, text=True)
    left = crashed.stdout.strip()
    assert left in namespaces().split()
    hosts.remove_leftovers()
    assert left not in namespaces().split()
