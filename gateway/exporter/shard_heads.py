"""The shards' records as the exporter reads them, on a ledger of which a part may be away."""

import structlog

from gateway.ledger.codec.shard_records import Shard
from gateway.ledger.outbox import Outbox

log = structlog.get_logger()


class ShardHeads:
    """The records of all shards.

    known: as each was read last. away: shards whose node could not be reached at the last look
    """

    def __init__(self, outbox: Outbox) -> None:
        self.known: dict[int, Shard] = {}
        self.away: frozenset[int] = frozenset()
        self._outbox = outbox

    async def read(self) -> dict[int, Shard]:
        """The records of those that can be reached. Raises LedgerUnavailable when none can."""
        found = await self._outbox.reached_heads()
        self.known |= found
        away = frozenset(range(self._outbox.shard_count)) - found.keys()
        if away - self.away:
            log.warning("shards_away", shards=sorted(away))
        if self.away - away:
            log.warning("shards_back", shards=sorted(self.away - away))
        self.away = away
        return found
