"""Which shards this exporter may export now: all of them, or its share by lease."""

import time

import structlog

from gateway.exporter.interface import LeaseSource
from gateway.exporter.sink import Sink, Store
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.exporters import OtherStore

log = structlog.get_logger()


class Holding:
    """The shards of one exporter. leases: None where it is alone and holds every shard."""

    def __init__(self, leases: LeaseSource | None, shard_count: int, store_name: str) -> None:
        self.standing_by = False
        """Whether the ledger's events go to another store."""
        self._leases = leases
        self._name = store_name
        self._all = frozenset(range(shard_count))
        self._shards: frozenset[int] = frozenset()
        self._valid_until = 0.0
        self._left: set[int] = set()

    @property
    def shards(self) -> frozenset[int]:
        """What may be exported at this moment."""
        if self._leases is None:
            return self._all
        return self._shards if time.monotonic() < self._valid_until else frozenset()

    @property
    def interrupted(self) -> bool:
        """Whether `take_left` has something to say."""
        return bool(self._left)

    def take_left(self) -> set[int]:
        """What was not held for a while since the last call, though it may be held again: another exporter
        may have exported it meanwhile."""
        left, self._left = self._left, set()
        return left

    async def refresh(self, sink: Sink) -> None:
        """Renew the lease for the store that is open. Raises LedgerUnavailable."""
        if self._leases is None:
            return
        assert isinstance(sink, Store), "only a store can be the required one"
        # From before the call on: so this exporter never believes longer than the ledger does.
        until = time.monotonic() + self._leases.ttl_ms / 1000
        try:
            lease = await self._leases.lease(sink.store_id, self._name)
        except OtherStore as other:
            if not self.standing_by:
                log.warning("exporter_stands_by", reason=str(other))
            self._left |= self._shards
            self.standing_by, self._shards = True, frozenset()
            return
        if self.standing_by:
            log.warning("exporter_takes_over", store=self._name)
        expired = time.monotonic() >= self._valid_until
        self._left |= self._shards if expired else self._shards - lease.shards
        self.standing_by, self._shards, self._valid_until = False, lease.shards, until

    async def leave(self) -> None:
        """Free the shards for the others; they are free after a while in any case."""
        if self._leases is None or self.standing_by:
            return
        self._shards = frozenset()
        try:
            await self._leases.leave()
        except LedgerUnavailable as error:
            log.warning("exporter_waits", sink=self._name, reason=str(error), attempt=0)
