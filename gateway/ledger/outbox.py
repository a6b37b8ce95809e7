"""Reads the outbox: what the scripts wrote with each balance change. `read` gives rows for the exporter,
`scan` events for the operations.

Invariant: reading never loses an entry and never fails on one (`codec/outbox_entries.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Container, Mapping
from typing import Any, Final

from redis.asyncio import Redis

from gateway.domain.delivery import START, Place
from gateway.domain.events import Event
from gateway.ledger.client.faults import unavailable
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.outbox_entries import Entry, decode
from gateway.ledger.codec.outbox_rows import RowDecoder, Tail
from gateway.ledger.codec.shard_records import Shard, read_shard

_LAST_SEQ: Final = (1 << 64) - 1
_MOST_PER_SHARD: Final = 1024
"""Entries one read takes from one shard at most: 64 shards that wake at once stay affordable."""


class Outbox:
    """The outboxes of all shards.

    One read costs one round trip whatever the number of shards, and one command when all are idle.
    """

    def __init__(self, client: Redis, shard_count: int, *, namespace: str = "cg") -> None:
        self.keys = Keys(namespace, shard_count)
        # redis-py reshapes replies by the command's name as text; in bytes they come as they are.
        self._execute: Callable[..., Awaitable[Any]] = client.execute_command
        self._client = client
        self._shard_of = {self.keys.out(shard): shard for shard in range(shard_count)}
        self._stream_of = list(self._shard_of)
        self._busy = 1
        self._rows = RowDecoder()
        self.shard_count = shard_count

    async def read(
        self,
        after: Mapping[int, Place],
        *,
        limit: int = 8192,
        block_ms: int = 0,
        skip: Container[int] = (),
    ) -> list[Tail]:
        """The next entries beyond each shard's place, as rows, in order; about `limit` of them in all.

        block_ms: wait this long for the first one when there is none; 0 returns at once.
        skip: shards that are not read
        Raises LedgerUnavailable.
        """
        count = min(_MOST_PER_SHARD, max(1, limit // self._busy))
        command: list[Any] = [b"XREAD", b"COUNT", count]
        if block_ms:
            command += [b"BLOCK", block_ms]
        command.append(b"STREAMS")
        shards = [shard for shard in range(self.shard_count) if shard not in skip]
        if not shards:
            await asyncio.sleep(block_ms / 1000)
            return []
        command += [self._stream_of[shard] for shard in shards]
        command += [_exclusive(after.get(shard, START)) for shard in shards]
        with unavailable():
            reply = await self._execute(*command)
        tails = reply.items() if isinstance(reply, dict) else reply or ()  # RESP3, RESP2
        self._busy = max(1, len(tails))
        return [self._rows.decode(self._shard_of[name], raw) for name, raw in tails]

    async def scan(self, shard: int, up_to: Place) -> list[Entry]:
        """All entries of one shard that have not been trimmed, up to and with `up_to`, in pages.

        Raises LedgerUnavailable.
        """
        entries: list[Entry] = []
        start, end = b"-", b"%d-%d" % up_to
        if up_to.seq < 0:
            end = _exclusive(up_to)
        while True:
            with unavailable():
                page = await self._execute(
                    b"XRANGE", self._stream_of[shard], start, end, b"COUNT", 2000
                )
            entries += decode(shard, page)
            if len(page) < 2000:
                return entries
            start = b"(" + page[-1][0]

    async def at(self, shard: int, place: Place) -> Entry | None:
        """The entry at one place; None when it has been trimmed. Raises LedgerUnavailable."""
        here = b"%d-%d" % place
        with unavailable():
            page = await self._execute(b"XRANGE", self._stream_of[shard], here, here)
        return decode(shard, page)[0] if page else None

    async def heads(self) -> list[Shard]:
        """Every shard's record, in one round trip; a shard never written to has a fresh one.

        Raises LedgerUnavailable.
        """
        async with self._client.pipeline(transaction=False) as pipe:
            for shard in range(self.shard_count):
                pipe.get(self.keys.meta(shard))
            with unavailable():
                raw = await pipe.execute()
        return [read_shard(record) if record else Shard(False, START, None) for record in raw]

    async def oldest_ms(
        self, after: Mapping[int, Place], only: Collection[int] | None = None
    ) -> int | None:
        """When the oldest entry beyond each shard's place occurred; None where there is none.

        only: these shards. Raises LedgerUnavailable.
        """
        async with self._client.pipeline(transaction=False) as pipe:
            for shard in range(self.shard_count) if only is None else only:
                stream = self._stream_of[shard]
                start = _exclusive(after.get(shard, START))
                pipe.execute_command(b"XRANGE", stream, b"(" + start, b"+", b"COUNT", 1)
            with unavailable():
                pages = await pipe.execute()
        entries = [decode(0, page)[0] for page in pages if page]
        return min((e.occurred_at_ms for e in entries if isinstance(e, Event)), default=None)


def _exclusive(place: Place) -> bytes:
    """The id that XREAD reads beyond. A sequence number has no predecessor below 0."""
    if place.seq >= 0:
        return b"%d-%d" % place
    return b"%d-%d" % (place.epoch - 1, _LAST_SEQ) if place.epoch > 0 else b"0-0"
