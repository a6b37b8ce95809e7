"""Reads the outbox: what the scripts wrote with each balance change, joined into events.

Invariants: reading never loses an entry and never fails on one. What cannot be decoded comes out as
a dead letter at its place, so that the numbering has no gaps. `lua/README.md` (stamp and facts)
describes the layout of an entry; a change there needs the same change in `decode_entry`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from typing import Any, Final, get_args

from msgpack import packb, unpackb
from redis.asyncio import Redis

from gateway.domain.delivery import START, DeadLetter, Place
from gateway.domain.events import Event, EventKind
from gateway.domain.money import MAX_AMOUNT_NANO
from gateway.domain.signals import read_signals
from gateway.domain.usage import UNIT_NAMES, without_tier
from gateway.ledger.client.faults import unavailable
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.shard_records import Shard, read_shard

Entry = Event | DeadLetter

_KINDS: Final = frozenset(get_args(EventKind))
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
        self.shard_count = shard_count

    async def read(
        self,
        after: Mapping[int, Place],
        *,
        limit: int = 8192,
        block_ms: int = 0,
        skip: Container[int] = (),
    ) -> list[tuple[int, list[Entry]]]:
        """The next entries beyond each shard's place, in order; about `limit` of them in all.

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
        return [(shard := self._shard_of[name], decode(shard, raw)) for name, raw in tails]

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


def decode(shard: int, raw: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[Entry]:
    """Decode the entries of a reply of XRANGE or XREAD: ids, each with a flat list of fields."""
    return [decode_entry(shard, entry_id, fields) for entry_id, fields in raw]


def decode_entry(shard: int, entry_id: bytes, fields: Sequence[bytes]) -> Entry:
    """Join the stamp and the facts of one entry; a malformed one becomes a dead letter."""
    epoch, _, seq = entry_id.partition(b"-")
    event_id = None
    try:
        _, stamp, _, packed_facts = fields
        kind, event_id, at, amount, held, cost, balance, allocations, usage, *signals = unpackb(
            stamp
        )
        facts = unpackb(packed_facts)
        customer_id = facts.pop("customer_id")
        if not (
            kind in _KINDS
            and type(event_id) is type(customer_id) is str
            and type(at) is type(amount) is type(held) is type(balance) is int
            and (cost is False or type(cost) is int)
            and -MAX_AMOUNT_NANO <= amount <= MAX_AMOUNT_NANO
        ):
            raise ValueError("a field of the stamp has a wrong type or an unknown kind")
        units = iter(usage)
        grants = iter(allocations)
        return Event(
            kind,
            event_id,
            shard,
            int(epoch),
            int(seq),
            at,
            customer_id,
            amount,
            balance,
            held,
            None if cost is False else cost,  # a late settle's may be negative
            tuple(zip(grants, grants, strict=True)),
            {
                without_tier(UNIT_NAMES[unit]): quantity
                for unit, quantity in zip(units, units, strict=True)
            },
            facts.pop("price_version", None),
            facts,
            read_signals(*signals) if signals else (),
        )
    except Exception as error:  # whatever lies there: decoding must go on
        return DeadLetter(
            shard=shard,
            epoch=int(epoch),
            seq=int(seq),
            event_id=event_id if isinstance(event_id, str) else None,
            reason=f"unreadable: {type(error).__name__}: {error}"[:200],
            payload=packb(fields),
        )


def _exclusive(place: Place) -> bytes:
    """The id that XREAD reads beyond. A sequence number has no predecessor below 0."""
    if place.seq >= 0:
        return b"%d-%d" % place
    return b"%d-%d" % (place.epoch - 1, _LAST_SEQ) if place.epoch > 0 else b"0-0"
