"""Shards that have lost a tail, or give places again that the store has: found, frozen, and taken up again.

What is found while a load is on its way is applied between two loads, so that a load belongs to one epoch.
A shard that cannot be reached is looked at again later; the others do not wait for it.
"""

from collections.abc import Mapping
from contextlib import suppress

from gateway.domain.delivery import Place
from gateway.exporter.interface import Acknowledger
from gateway.exporter.progress import Progress
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.shard_records import Shard


class ShutShards:
    """The shards of one pump that are frozen, or must be."""

    def __init__(self, acknowledger: Acknowledger, progress: Progress) -> None:
        self.conflicts: dict[int, Place] = {}
        """Shards whose outbox has another event at a place that the store has, until the ledger
        freezes them."""
        self._acknowledger = acknowledger
        self._progress = progress
        self._shut: dict[int, Shard] = {}
        self._opened: dict[int, Shard] = {}

    def apply(self) -> None:
        """Halt what was found frozen, and resume what was repaired."""
        held = self._progress.held
        for shard in self._shut.keys() & held:
            self._progress.halt(shard, self._shut[shard].last)
        for shard in self._opened.keys() & held:
            self._progress.resume(shard, self._opened[shard])
        self._shut, self._opened = {}, {}

    async def behind(self, shard: int, head: Shard, stored: Place | None) -> bool:
        """Whether a shard has less than is stored, and is frozen for it now.

        What the head says may be a replica's, which lags: the ledger itself decides.
        Raises LedgerUnavailable.
        """
        if stored is None or head.frozen or head.last >= stored:
            return False
        return await self._acknowledger.freeze(shard, stored)

    async def look_at(self, heads: Mapping[int, Shard], stored: Mapping[int, Place]) -> None:
        """Compare the heads with what the store had before they were read."""
        conflicting = frozenset(self.conflicts)  # their heads were read before they are frozen
        for shard, place in list(self.conflicts.items()):
            with suppress(LedgerUnavailable):
                await self._acknowledger.freeze(shard, place, conflict=True)
                del self.conflicts[shard]
        for shard in stored.keys() & self._progress.held & heads.keys():
            with suppress(LedgerUnavailable):
                await self._look_at(shard, heads[shard], stored[shard], conflicting)

    async def _look_at(
        self, shard: int, head: Shard, stored: Place, conflicting: frozenset[int]
    ) -> None:
        if shard not in self._progress.halted:
            if head.frozen or await self.behind(shard, head, stored):
                self._shut[shard] = head
            return
        # It may be frozen no longer because the ledger went back again, to before it was.
        if shard in conflicting or shard in self.conflicts or head.frozen:
            return
        if not await self.behind(shard, head, stored):
            self._opened[shard] = head
