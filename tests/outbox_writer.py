"""Writes outbox entries as the settling scripts do, for tests of what comes after them."""

from typing import Any

import msgpack
import redis.asyncio

from gateway.domain.delivery import START, Place
from gateway.domain.usage import UNIT_NUMBERS
from gateway.ledger.outbox import ShardHead


class OutboxWriter:
    """Entries and shard records after `lua/README.md`, by plain commands."""

    def __init__(self, client: redis.asyncio.Redis, shards: int = 4) -> None:
        self.client = client
        self.shards = shards
        self.last: dict[int, Place] = {}
        self.written: list[str] = []

    async def write(
        self,
        shard: int = 0,
        *,
        kind: str = "settle",
        event_id: str | None = None,
        customer_id: str = "acme",
        amount: int = 700,
        facts: dict[str, Any] | None = None,
        **raw: bytes,
    ) -> str:
        """Append one entry, as XADD numbers it; returns the event's id."""
        event_id = event_id or f"r{len(self.written)}:settled"
        usage = [UNIT_NUMBERS["input"], 12, UNIT_NUMBERS["output"], 5]
        stamp = [kind, event_id, 1_700_000_000_000, amount, 1000, False, 5000, [1, amount], usage]
        known = {"customer_id": customer_id, "price_version": "p_1", "request_id": event_id[:-8]}
        fields: dict[Any, Any] = {
            "s": msgpack.packb(stamp),
            "f": msgpack.packb({**known, **(facts or {})}),
            **raw,
        }
        epoch = self.last.get(shard, START).epoch
        entry: Any = await self.client.xadd(f"{{cg:{shard}}}:out", fields, id=f"{epoch}-*")
        await self.place(shard, Place(*map(int, entry.split(b"-"))))
        self.written.append(event_id)
        return event_id

    async def write_many(self, count: int) -> list[str]:
        """Spread entries over all shards."""
        return [await self.write(number % self.shards) for number in range(count)]

    async def place(self, shard: int, last: Place) -> None:
        """Say in the shard's record where its outbox ends."""
        self.last[shard] = last
        await self._save(shard, ShardHead(last, (await self.head(shard)).acked))

    async def head(self, shard: int) -> ShardHead:
        """The shard's record."""
        record: Any = await self.client.get(f"{{cg:{shard}}}:meta")
        return ShardHead.unpack(record) if record else ShardHead()

    async def ack(self, shard: int, epoch: int, seq: int) -> None:
        """Trim up to and with this place, and note it."""
        await self.client.xtrim(
            f"{{cg:{shard}}}:out", minid=f"{epoch}-{seq + 1}", approximate=False
        )
        await self._save(shard, ShardHead((await self.head(shard)).last, Place(epoch, seq)))

    async def _save(self, shard: int, head: ShardHead) -> None:
        await self.client.set(f"{{cg:{shard}}}:meta", head.pack())
