"""What the pump needs of the ledger in addition to its outbox."""

from typing import Protocol

from gateway.domain.delivery import Place
from gateway.ledger.exporters import Lease


class Acknowledger(Protocol):
    """Tells a shard up to where its outbox is stored; the ledger trims it. And shuts it when it has
    less than is stored."""

    async def ack(self, shard: int, epoch: int, seq: int) -> None:
        """Trim up to and including this place. Idempotent. Raises LedgerUnavailable, also if the
        outbox has never reached it."""
        ...

    async def freeze(self, shard: int, known: Place, *, conflict: bool = False) -> bool:
        """Shut a shard unless it has the entry `known`; whether it is shut now.

        conflict: the sink has another event at a place of its outbox. Raises LedgerUnavailable.
        """
        ...


class LeaseSource(Protocol):
    """Gives leases: `gateway.ledger.exporters.Leases`."""

    ttl_ms: int

    async def lease(self, store_id: str, store_name: str) -> Lease:
        """Take or keep a share. Raises OtherStore, LedgerUnavailable."""
        ...

    async def leave(self) -> None:
        """Give everything back. Raises LedgerUnavailable."""
        ...
