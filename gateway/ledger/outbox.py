"""Reads the outbox: what the scripts wrote with each balance change. `read` gives rows for the exporter,
`scan` events for the operations.

Invariant: reading never loses an entry and never fails on one (`codec/outbox_entries.py`).

On a cluster one command cannot read streams of several slots, and so cannot wait for all of them: each
stream is asked for by itself, in one round trip to each node, again and again. Shards of a node that is
away are left out until it is back.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Container, Mapping
from typing import Any, Final

from redis.asyncio import Redis

from gateway.domain.delivery import START, Place
from gateway.domain.events import Event
from gateway.ledger.client.cluster.client import is_cluster
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import unavailable
from gateway.ledger.client.reading import execute_reached
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.outbox_entries import Entry, decode
from gateway.ledger.codec.outbox_rows import RowDecoder, Tail
from gateway.ledger.codec.shard_records import Shard, read_shard

_LAST_SEQ: Final = (1 << 64) - 1
_MOST_PER_SHARD: Final = 1024
"""Entries one read takes from one shard at most: 64 shards that wake at once stay affordable."""
POLL_S: Final = 0.05
"""On a cluster: between two looks at all streams while entries arrive."""
IDLE_POLL_S: Final = 0.4
"""And when none has arrived for a while."""


class Outbox:
    """The outboxes of all shards.

    One read costs one round trip whatever the number of shards, and one command when all are idle; on a
    cluster one command for each shard and look.
    """

    def __init__(self, client: Redis, shard_count: int, *, namespace: str = "cg") -> None:
        self.keys = Keys(namespace, shard_count)
        # redis-py reshapes replies by the command's name as text; in bytes they come as they are.
        self._execute: Callable[..., Awaitable[Any]] = client.execute_command
        self._client: Any = client  # its stubs promise text where this client answers bytes
        self._shard_of = {self.keys.out(shard): shard for shard in range(shard_count)}
        self._stream_of = list(self._shard_of)
        self.on_cluster = is_cluster(client)
        """Whether some shards may be away while others are not."""
        self._busy = 1
        self._pause_s = POLL_S
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
        Raises LedgerUnavailable; where only a node of a cluster is away, its shards are left out.
        """
        places = {
            self._stream_of[shard]: _exclusive(after.get(shard, START))
            for shard in range(self.shard_count)
            if shard not in skip
        }
        if not places:
            await asyncio.sleep(block_ms / 1000)
            return []
        count = min(_MOST_PER_SHARD, max(1, limit // self._busy))
        if self.on_cluster:
            tails = await self._poll(places, count, block_ms)
        else:
            blocking = [b"BLOCK", block_ms] if block_ms else []
            with unavailable():
                reply = await self._execute(
                    b"XREAD", b"COUNT", count, *blocking, b"STREAMS", *places, *places.values()
                )
            tails = _streams(reply)
        self._busy = max(1, len(tails))
        return [self._rows.decode(self._shard_of[name], raw) for name, raw in tails]

    async def _poll(
        self, places: Mapping[bytes, bytes], count: int, block_ms: int
    ) -> list[tuple[bytes, Any]]:
        until = time.monotonic() + block_ms / 1000
        while True:
            async with self._client.pipeline(transaction=False) as pipe:
                for stream, place in places.items():
                    pipe.execute_command(b"XREAD", b"COUNT", count, b"STREAMS", stream, place)
                replies = await execute_reached(pipe)
            tails = [
                tail
                for reply in replies
                if not isinstance(reply, LedgerUnavailable)
                for tail in _streams(reply)
            ]
            left_s = until - time.monotonic()
            if tails:
                self._pause_s = POLL_S
            if tails or left_s <= 0:
                return tails
            await asyncio.sleep(min(self._pause_s, left_s))
            self._pause_s = min(self._pause_s * 1.5, IDLE_POLL_S)

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

        Raises LedgerUnavailable, also when one node of a cluster is away.
        """
        heads = []
        for head in await self.look():
            if isinstance(head, LedgerUnavailable):
                raise head
            heads.append(head)
        return heads

    async def head(self, shard: int) -> Shard:
        """One shard's record. Raises LedgerUnavailable."""
        with unavailable():
            return _head(await self._client.get(self.keys.meta(shard)))

    async def look(self) -> list[Shard | LedgerUnavailable]:
        """Every shard's record; of one whose node is away the reason.

        Raises LedgerUnavailable when that is every node.
        """
        async with self._client.pipeline(transaction=False) as pipe:
            for shard in range(self.shard_count):
                pipe.get(self.keys.meta(shard))
            raw = await execute_reached(pipe)
        return [each if isinstance(each, LedgerUnavailable) else _head(each) for each in raw]

    async def reached_heads(self) -> dict[int, Shard]:
        """The records of all shards but those whose node is away, by shard.

        Raises LedgerUnavailable when that is every node.
        """
        heads = enumerate(await self.look())
        return {n: head for n, head in heads if not isinstance(head, LedgerUnavailable)}

    async def oldest_ms(
        self, after: Mapping[int, Place], only: Collection[int] | None = None
    ) -> int | None:
        """When the oldest entry beyond each shard's place occurred; None where there is none.

        only: these shards. Raises LedgerUnavailable, also when one node of a cluster is away.
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


def _head(record: Any) -> Shard:
    return read_shard(record) if record else Shard(False, START, None)


def _streams(reply: Any) -> list[tuple[bytes, Any]]:
    """Streams and their entries in a reply to XREAD, of RESP3 or RESP2."""
    return list(reply.items() if isinstance(reply, dict) else reply or ())


def _exclusive(place: Place) -> bytes:
    """The id that XREAD reads beyond. A sequence number has no predecessor below 0."""
    if place.seq >= 0:
        return b"%d-%d" % place
    return b"%d-%d" % (place.epoch - 1, _LAST_SEQ) if place.epoch > 0 else b"0-0"
