"""The servers of a ledger: what each of them has, and slots that move between those of a cluster.

A shard is in the slot of its hash tag, and moves with it. Only slots that the ledger uses are touched.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from gateway.ledger.client.cluster.client import ClusterClient
from gateway.ledger.client.cluster.members import Primary, ask, look
from gateway.ledger.client.cluster.moving import find_way, missing_rights, open_moves
from gateway.ledger.client.cluster.slot_jobs import await_job, run_job
from gateway.ledger.client.cluster.slot_keys import move_keys
from gateway.ledger.client.cluster.slot_moves import Transfer, Way
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.shard_loads import (
    GLOBAL,
    Memory,
    ShardHead,
    read_heads,
    read_memory,
    slots_of,
)

SLOTS_OF_A_JOB: Final = 16
"""Slots that one job moves: each job makes its source fork."""


class LedgerNodes:
    """The servers behind an open client, of one namespace. Every method raises LedgerUnavailable."""

    def __init__(self, client: Any, keys: Keys, shown: str) -> None:
        """shown: of a single server, its address without secrets"""
        self._client = client
        self._keys = keys
        self.shown = shown
        self.slots = slots_of(keys)
        """The slot of each shard; of `GLOBAL` that of the keys that belong to none."""
        self.shards_in: Mapping[int, Sequence[int]] = _inverted(self.slots)

    @property
    def is_cluster(self) -> bool:
        """Whether shards may live on different servers."""
        return isinstance(self._client, ClusterClient)

    async def primaries(self) -> list[Primary]:
        """Of a cluster, those without slots too; none for a single server."""
        return await look(self._client) if self.is_cluster else []

    async def heads(self) -> list[ShardHead | None]:
        """Every shard's record; None where its node is away."""
        return await read_heads(self._client, self._keys)

    async def memory(self, primaries: Sequence[Primary]) -> Memory:
        """What each shard takes."""
        return await read_memory(self._client, self._keys, primaries)

    # Of a cluster only

    async def way(self, primaries: Sequence[Primary]) -> Way:
        """How slots move here."""
        return await find_way(self._client, primaries)

    async def missing_rights(self, primaries: Sequence[Primary], way: Way) -> list[str]:
        """Which of these commands the user may not run."""
        return await missing_rights(self._client, primaries, way, self._keys.meta(0))

    async def open_moves(self, primaries: Sequence[Primary], way: Way) -> list[Transfer]:
        """What an earlier run has left under way."""
        return await open_moves(self._client, primaries, self.shards_in.keys(), way)

    async def count_keys(self, primary: Primary, slot: int) -> int:
        """Keys of a slot."""
        words = ("CLUSTER", "COUNTKEYSINSLOT", slot)
        return int(await ask(self._client, primary.endpoint, *words))

    async def move(
        self,
        move: Transfer,
        primaries: Sequence[Primary],
        report: Callable[[int, int], None],
        *,
        begun: bool = False,
    ) -> None:
        """Move slots, or go on with what has begun. `report`: keys that have left, of how many.

        Raises CannotMove.
        """
        if move.way == "keys":
            [slot] = move.slots
            first = [self._keys.meta(each) for each in self.shards_in[slot] if each != GLOBAL]
            await move_keys(self._client, move, primaries, first, report)
        elif begun:
            await await_job(self._client, move, primaries)
        else:
            target = next(each for each in primaries if each.node_id == move.target_id)
            await run_job(self._client, move.way, move.slots, move.source, target)


def _inverted(slots: Mapping[int, int]) -> Mapping[int, Sequence[int]]:
    shards: dict[int, list[int]] = defaultdict(list)
    for shard, slot in slots.items():
        shards[slot].append(shard)
    return dict(shards)
