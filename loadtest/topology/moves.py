"""Slots that move between primaries of a loaded cluster.

- `ClassicMove`: key by key, as every Redis Cluster does it. While it lasts, the source answers ASK
  for keys that have left, and both answer TRYAGAIN for calls on several keys of which some left.
- `move_atomic`: all at once, as Valkey 9 does it: the target takes a snapshot and the writes since,
  then the slots change hands between two commands. Clients see MOVED, never ASK.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from loadtest.topology.cluster import Cluster
from loadtest.topology.node import Node, NodeFailed, until

MIGRATE_TIMEOUT_MS: Final = 5_000


class ClassicMove:
    """One slot on its way: `begin`, `move_page` until it returns 0, `finish`. Or `run`.

    Raises redis.RedisError.
    """

    def __init__(self, cluster: Cluster, slot: int, target: Node, *, page: int = 100) -> None:
        """page: keys per MIGRATE, during which the source does nothing else"""
        self.slot = slot
        self.source = cluster.owner(slot)
        self.target = target
        assert self.source is not target, f"slot {slot} is at {target} already"
        self._cluster = cluster
        self._page = page

    def begin(self) -> None:
        """Open the slot at both ends, the target first."""
        source_id, target_id = map(self._cluster.id_of, (self.source, self.target))
        self.target.ask("CLUSTER", "SETSLOT", self.slot, "IMPORTING", source_id)
        self.source.ask("CLUSTER", "SETSLOT", self.slot, "MIGRATING", target_id)

    def move_page(self) -> int:
        """Move up to a page of keys; return how many, 0 if none are left."""
        keys = self.source.ask("CLUSTER", "GETKEYSINSLOT", self.slot, self._page)
        if keys:
            at, access = self.target.address, self.source.options.access
            enter = ("AUTH2", *access.words()) if access.password else ()
            words = (at.host, at.port, "", 0, MIGRATE_TIMEOUT_MS, *enter, "KEYS", *keys)
            self.source.ask("MIGRATE", *words, timeout_s=2 * MIGRATE_TIMEOUT_MS / 1000)
        return len(keys)

    def finish(self) -> None:
        """Give the slot to the target: it first, then the source, then everyone else."""
        target_id = self._cluster.id_of(self.target)
        first = [self.target, self.source]
        rest = [node for node in self._cluster.primaries() if node not in first]
        for node in [*first, *rest]:
            node.ask("CLUSTER", "SETSLOT", self.slot, "NODE", target_id)

    def abandon(self) -> None:
        """Close the slot at both ends; keys that have left stay where they are."""
        for node in (self.source, self.target):
            node.ask("CLUSTER", "SETSLOT", self.slot, "STABLE")

    def run(self, pause: Callable[[], None] | None = None) -> None:
        """Move the slot. pause: called once, when the first page has left."""
        self.begin()
        moved = self.move_page()
        if pause is not None:
            pause()
        while moved:
            moved = self.move_page()
        self.finish()


def move_classic(cluster: Cluster, slots: Iterable[int], target: Node) -> None:
    """Move slots one after another; return when all nodes agree on it."""
    for slot in slots:
        ClassicMove(cluster, slot, target).run()
    cluster.wait_agreed()


def move_atomic(cluster: Cluster, first: int, last: int, target: Node) -> None:
    """Move a range of slots of one primary at once; return when all nodes agree on it.

    Raises NodeFailed if the migration fails, redis.RedisError if the server knows no such thing.
    """
    source = cluster.owner(first)
    start_atomic(cluster, source, range(first, last + 1), target)
    until(lambda: _is_over(source, first, last), f"slots {first}-{last} at {target}", 60.0)
    state, message = _state(source, first, last)
    if state != "success":
        raise NodeFailed(f"slots {first}-{last} did not move: {state} {message}")
    cluster.wait_agreed()


def start_atomic(cluster: Cluster, source: Node, slots: range, target: Node) -> None:
    """Begin the migration of a range and return at once; `source` reports its state."""
    words = ("SLOTSRANGE", slots[0], slots[-1], "NODE", cluster.id_of(target))
    source.ask("CLUSTER", "MIGRATESLOTS", *words)


def migrations(node: Node) -> list[dict[str, Any]]:
    """Return the atomic migrations that a node knows, the latest first."""
    return [
        dict(zip(flat[::2], flat[1::2], strict=True))
        for flat in node.ask("CLUSTER", "GETSLOTMIGRATIONS")
    ]


def _is_over(source: Node, first: int, last: int) -> bool:
    return _state(source, first, last)[0] in {"success", "failed", "cancelled"}


def _state(source: Node, first: int, last: int) -> tuple[str, str]:
    """The state and message of the latest export of this range."""
    for one in migrations(source):
        if one["operation"] == "EXPORT" and one["slot_ranges"] == f"{first}-{last}":
            return one["state"], one["message"]
    return "", ""
