"""`make cluster`: a gate under load while the nodes of its ledger's cluster fail, move and are replaced.

    python -m loadtest.failover.cluster [--rate 60] [--folder FOLDER]

Three primaries with a replica each as real processes; on hosts of their own, so that they can be cut
off, where network namespaces can be made (Linux, as root). Exit 1 unless the gate served everybody
again after each step without a restart, and every request is charged or named.
"""

from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console

from gateway.ledger.codec.key_names import Keys
from loadtest.failover.commandline import RATE, command
from loadtest.failover.scenario import Run, Step, play
from loadtest.topology import hosts
from loadtest.topology.cluster import Cluster, slot_of
from loadtest.topology.moves import move_atomic, move_classic
from loadtest.topology.node import Node
from loadtest.topology.places import LocalPlaces

MOVED_SHARDS: Final = 8
"""Shards that one step moves."""


class Script:
    """What happens to the nodes, step by step."""

    def __init__(self, cluster: Cluster, network: hosts.Network | None) -> None:
        self._cluster = cluster
        self._network = network
        self._old: Node
        self._names = Keys()

    def short(self) -> list[Step]:
        """A failure, the return of what failed, and shards that move."""
        return [
            Step("primary killed (-9)", self._kill),
            Step("old primary restarted", self._return),
            Step("shards moved at once", self._move_atomic),
        ]

    def every(self) -> list[Step]:
        """Each way for a node to go and to come back, and for shards to move."""
        steps = [
            *self.short(),
            Step("shards moved key by key", self._move_classic),
            Step("primary of the global keys killed", self._kill_global),
            Step("it is restarted", self._return),
            Step("CLUSTER FAILOVER", self._failover),
            Step("primary frozen", self._freeze),
            Step("old primary thawed", self._return),
            Step("a primary is added, and shards moved there", self._grow),
        ]
        if self._network is not None:
            steps += [
                Step("replica cut off from all", self._cut_replica),
                Step("the replica is reachable again", self._mend_replica),
                Step("primary cut off from all", self._cut),
                Step("old primary reachable again", self._mend),
                Step("primary apart from the others", self._separate),
                Step("old primary with them again", self._mend),
            ]
        return steps

    def _kill(self) -> None:
        self._old = self._victim()
        self._cluster.kill(self._old)

    def _kill_global(self) -> None:
        self._old = self._cluster.primary_of(self._names.common("exporters"))
        self._cluster.kill(self._old)

    def _return(self) -> None:
        self._cluster.rejoin(self._old)

    def _failover(self) -> None:
        self._cluster.failover(self._cluster.replicas(self._victim())[0])

    def _freeze(self) -> None:
        self._old = self._victim()
        self._cluster.freeze(self._old)

    def _move_atomic(self) -> None:
        for slot, target in self._moves(self._victim()):
            move_atomic(self._cluster, slot, slot, target)

    def _move_classic(self) -> None:
        for slot, target in self._moves(self._victim()):
            move_classic(self._cluster, [slot], target)

    def _grow(self) -> None:
        source, target = self._victim(), self._cluster.add_primary()
        for slot, _ in self._moves(source):
            move_atomic(self._cluster, slot, slot, target)

    def _cut_replica(self) -> None:
        assert self._network is not None
        self._old = self._cluster.replicas()[0]
        self._network.cut(self._old.address)

    def _mend_replica(self) -> None:
        assert self._network is not None
        self._network.mend()
        self._cluster.wait_agreed()

    def _cut(self) -> None:
        assert self._network is not None
        self._old = self._victim()
        slot = min(self._cluster.slots(self._old))
        self._network.cut(self._old.address)
        self._cluster.wait_for_election(slot, self._old)

    def _separate(self) -> None:
        """The gate reaches both sides, and the old primary accepts what it writes there for a while."""
        assert self._network is not None
        self._old = self._victim()
        slot = min(self._cluster.slots(self._old))
        others = [node.address for node in self._cluster.nodes if node is not self._old]
        self._network.separate([self._old.address], others)
        self._cluster.wait_for_election(slot, self._old)

    def _mend(self) -> None:
        assert self._network is not None
        self._network.mend()
        self._cluster.rejoin(self._old)

    def _victim(self) -> Node:
        """A primary that has a replica and shards."""
        by_shards = sorted(self._cluster.primaries(), key=self._shards_of, reverse=True)
        return next(node for node in by_shards if self._cluster.replicas(node))

    def _shards_of(self, node: Node) -> int:
        slots = self._cluster.slots(node)
        return sum(slot_of(self._names.meta(shard)) in slots for shard in range(64))

    def _moves(self, source: Node) -> list[tuple[int, Node]]:
        """Some of a primary's shards, and where each is to go."""
        slots = self._cluster.slots(source)
        others = [node for node in self._cluster.primaries() if node is not source]
        mine = [slot for shard in range(64) if (slot := slot_of(self._names.meta(shard))) in slots]
        return [(slot, others[at % len(others)]) for at, slot in enumerate(mine[:MOVED_SHARDS])]


def run(folder: Path, console: Console, *, rate: float = RATE, short: bool = False) -> Run:
    """Play it. Raises NotServed, NotRecovered, GateFailed, NodeFailed."""
    network = hosts.Network() if not short and hosts.available() else None
    with Cluster(folder / "nodes", places=network or LocalPlaces()) as cluster:
        script = Script(cluster, network)
        steps = script.short() if short else script.every()
        url = f"redis+cluster://{','.join(map(str, cluster.addresses))}"
        return uvloop.run(play(folder, {"url": url}, steps, rate=rate, console=console))


def main() -> None:
    """The command line; exit 1 if the run failed."""
    command("loadtest.failover.cluster", __doc__ or "", run)


if __name__ == "__main__":
    main()
