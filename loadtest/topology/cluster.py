"""A Valkey Cluster of real processes: created, broken, mended and grown.

Roles are read from the nodes each time, since elections change them. The word of a node on itself
counts, and of two that claim a slot the one with the higher epoch: a partitioned old primary still
thinks it owns what it lost. Methods block, raise NodeFailed, and may be called from any thread,
one at a time.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final

import redis
from redis.crc import key_slot

from loadtest.topology.agreement import disagreement, seen_by
from loadtest.topology.node import Node, NodeFailed, until, wait_all
from loadtest.topology.options import Address, Options
from loadtest.topology.places import LocalPlaces, Places
from loadtest.topology.view import SLOTS, Member

_SETTINGS: Final = {
    "cluster-enabled": "yes",
    "cluster-node-timeout": "1000",
    "cluster-require-full-coverage": "no",
    "cluster-replica-validity-factor": "0",
    "cluster-migration-barrier": "99",  # no replica moves to another primary by itself
    "cluster-allow-replica-migration": "no",
}


def slot_of(key: str | bytes) -> int:
    """Return the slot of a key, by its hash tag if it has one."""
    return int(key_slot(key.encode() if isinstance(key, str) else key))


class Cluster:
    """`primaries` primaries with `replicas` replicas each, within a `with` block."""

    def __init__(
        self,
        folder: Path,
        *,
        primaries: int = 3,
        replicas: int = 1,
        options: Options | None = None,
        places: Places | None = None,
    ) -> None:
        """folder: a folder per node is made in it; it stays, for its logs

        options: its `settings` win over those here, such as a node timeout of 1,000 ms
        places:  where nodes listen; ports of 127.0.0.1 if None. Closed with the cluster
        """
        assert primaries >= 3 or not replicas, "two primaries cannot elect a third"
        self.folder = folder
        self.options = options or Options()
        self.nodes: list[Node] = []
        self._places: Places = places or LocalPlaces()
        self._primaries = primaries
        self._replicas = replicas
        self._ids: dict[Node, str] = {}

    def __enter__(self) -> "Cluster":
        try:
            self._create()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill all nodes and give their addresses back. Safe to repeat."""
        for node in self.nodes:
            node.kill9()
        self._places.close()

    # What it is now

    @property
    def addresses(self) -> list[Address]:
        """Of all nodes, dead ones included: what a client's configuration would list."""
        return [node.address for node in self.nodes]

    def id_of(self, node: Node) -> str:
        """Return the node's id in the cluster."""
        return self._ids[node]

    def standing(self) -> dict[Node, Member]:
        """Return each reachable node's word on itself."""
        found: dict[Node, Member] = {}
        for node in self._thawed():
            try:
                found[node] = next(one for one in seen_by(node) if one.is_self)
            except redis.RedisError:
                continue
        return found

    def owner(self, slot: int) -> Node:
        """Return the primary of a slot. Raises NodeFailed while it has none that is reachable."""
        claims = [
            (said.epoch, node)
            for node, said in self.standing().items()
            if said.is_primary and slot in said.slots
        ]
        if not claims:
            raise NodeFailed(f"no reachable node owns slot {slot}")
        return max(claims, key=lambda claim: claim[0])[1]

    def primary_of(self, key: str | bytes) -> Node:
        """Return the primary of a key's slot. Raises NodeFailed."""
        return self.owner(slot_of(key))

    def primaries(self) -> list[Node]:
        """Return who owns slots, and who is a primary without any, as one just added is."""
        said = self.standing()
        by_epoch = sorted(
            ((one.epoch, node) for node, one in said.items() if one.is_primary),
            key=lambda pair: pair[0],
        )
        owners = {slot: node for _, node in by_epoch for slot in said[node].slots}
        owning = set(owners.values())
        return [
            node
            for node, one in said.items()
            if one.is_primary and (node in owning or not one.slots)
        ]

    def replicas(self, primary: Node | None = None) -> list[Node]:
        """Return the reachable replicas, all or those of one primary."""
        of = self._ids[primary] if primary else None
        return [
            node
            for node, one in self.standing().items()
            if not one.is_primary and of in (None, one.primary_id)
        ]

    def slots(self, primary: Node) -> frozenset[int]:
        """Return the slots that this node says it owns."""
        return next(one for one in seen_by(primary) if one.is_self).slots

    def wait_agreed(self, among: Iterable[Node] | None = None, within_s: float = 30.0) -> None:
        """Wait until these nodes, all that run if None, see one another, the same roles and all
        slots, hold the cluster for ok, and replicas are in step. Raises NodeFailed, which says what
        they do not agree on."""
        nodes = None if among is None else list(among)

        def is_agreed() -> bool:
            asked = self._thawed() if nodes is None else nodes
            wrong = disagreement({node: self._ids[node] for node in asked})
            if wrong:
                raise NodeFailed(wrong)
            return True

        until(is_agreed, "agreement", within_s)

    # Failures and their mending

    def kill(self, primary: Node) -> Node:
        """Kill a primary with -9; return the replica that was elected in its place."""
        slot = min(self.slots(primary))
        primary.kill9()
        return self.wait_for_election(slot, primary)

    def freeze(self, primary: Node) -> Node:
        """Freeze a primary; return the replica that was elected in its place."""
        slot = min(self.slots(primary))
        primary.freeze()
        return self.wait_for_election(slot, primary)

    def wait_for_election(self, slot: int, old: Node, within_s: float = 30.0) -> Node:
        """Wait until another node than `old` owns the slot and the reachable rest agrees on it."""
        chosen: list[Node] = []

        def is_elected() -> bool:
            chosen[:] = [
                node
                for node, said in self.standing().items()
                if node is not old and said.is_primary and slot in said.slots
            ]
            return bool(chosen)

        until(is_elected, f"another primary of slot {slot} than {old}", within_s)
        self.wait_agreed([node for node in self.standing() if node is not old], within_s)
        return chosen[0]

    def failover(self, replica: Node, how: str = "") -> None:
        """Make a replica the primary by CLUSTER FAILOVER; return when all agree.

        how: empty, so that it loses nothing; `FORCE` with a dead primary; `TAKEOVER` without votes
        """
        replica.ask("CLUSTER", "FAILOVER", *([how] if how else []))
        until(lambda: bool(self.slots(replica)), f"{replica} as the primary")
        self.wait_agreed()

    def rejoin(self, node: Node) -> None:
        """Restart or thaw a node that was replaced; return when it is a replica in step."""
        if node.running:
            node.thaw()
        else:
            node.restart()
        until(lambda: node in self.replicas(), f"{node} as a replica")
        self.wait_agreed()

    # Growth

    def add_primary(self) -> Node:
        """Start a primary without slots and make all know it."""
        [node] = self._start_nodes(1)
        self._introduce([node])
        self.wait_agreed()
        return node

    def add_replica(self, primary: Node) -> Node:
        """Start another replica of this primary; return when it is in step."""
        [node] = self._start_nodes(1)
        self._introduce([node])
        self._replicate(node, primary)
        self.wait_agreed()
        return node

    # Creation

    def _create(self) -> None:
        nodes = self._start_nodes(self._primaries * (1 + self._replicas))
        primaries, replicas = nodes[: self._primaries], nodes[self._primaries :]
        for epoch, node in enumerate(nodes, start=1):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        bounds = [SLOTS * n // self._primaries for n in range(self._primaries + 1)]
        for node, (first, end) in zip(primaries, itertools.pairwise(bounds), strict=True):
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        self._introduce(nodes)
        for replica, primary in zip(replicas, itertools.cycle(primaries), strict=False):
            self._replicate(replica, primary)
        self.wait_agreed()

    def _start_nodes(self, count: int) -> list[Node]:
        """Start this many at once; return when all answer. They are stopped by `stop`."""
        added = []
        for _ in range(count):
            address = self._places.take()
            folder = self.folder / f"node-{len(self.nodes)}"
            tls = "no" if self.options.access.tls is None else "yes"
            mode = {**_SETTINGS, "cluster-port": str(address.bus_port), "tls-cluster": tls}
            node = Node(folder, address, self.options, mode=mode)
            self.nodes.append(node)
            added.append(node)
            node.start()
        wait_all(added)
        self._ids |= {node: node.ask("CLUSTER", "MYID") for node in added}
        return added

    def _introduce(self, added: list[Node]) -> None:
        """Make all nodes that run know the added ones. Each meets each, so gossip need not spread."""
        nodes = self._thawed()
        for node, other in itertools.product(nodes, added):
            if node is not other:
                at = other.address
                node.ask("CLUSTER", "MEET", at.host, at.port, at.bus_port)
        until(lambda: all(map(self._knows_all, nodes)), "acquaintance of all nodes")

    def _replicate(self, replica: Node, primary: Node) -> None:
        replica.ask("CLUSTER", "REPLICATE", self._ids[primary])

    def _knows_all(self, node: Node) -> bool:
        known = {one.node_id for one in seen_by(node) if "handshake" not in one.flags}
        return known >= {self._ids[one] for one in self._thawed()}

    def _thawed(self) -> list[Node]:
        return [node for node in self.nodes if node.running and not node.frozen]
