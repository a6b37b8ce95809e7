"""How a ledger was created: its layout and its number of shards, both fixed for its life."""

from typing import Any

from redis.asyncio import Redis

from gateway.ledger.client import clock
from gateway.ledger.client.faults import unavailable
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.layout import LAYOUT


class OtherLedger(Exception):
    """The server holds a ledger that was created otherwise: another layout or number of shards.
    Both are fixed for the life of a ledger. Set `redis.shards` to what the message names."""


class Creation:
    """The record of a ledger's creation. Every method raises LedgerUnavailable."""

    def __init__(self, client: Redis, names: Keys) -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes
        self._shard_count = names.shard_count
        self._key = names.common("creation")

    async def record(self) -> None:
        """Record how this ledger is created, or make sure that it was created so.

        Raises OtherLedger.
        """
        now_ms = await clock.now_ms(self._client)
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.hsetnx(self._key, "layout", LAYOUT)
            pipe.hsetnx(self._key, "shards", self._shard_count)
            pipe.hsetnx(self._key, "created_at_ms", now_ms)
            pipe.hmget(self._key, ["layout", "shards"])
            with unavailable():
                *_, (layout, shards) = await pipe.execute()
        self._compare(layout, shards)

    async def check(self) -> None:
        """Make sure that a ledger that exists was created so; changes nothing. Raises OtherLedger."""
        with unavailable():
            layout, shards = await self._client.hmget(self._key, ["layout", "shards"])
        if layout is not None and shards is not None:
            self._compare(layout, shards)

    def _compare(self, layout: bytes, shards: bytes) -> None:
        if int(layout) != LAYOUT:
            raise OtherLedger(f"the ledger has layout {int(layout)}; this release reads {LAYOUT}")
        if int(shards) != self._shard_count:
            raise OtherLedger(
                f"the ledger was created with {int(shards)} shards, not {self._shard_count};"
                f" set redis.shards to {int(shards)}"
            )
