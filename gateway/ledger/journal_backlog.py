"""What of one journal's file still has to be delivered, and one pass over it.

Invariants:
- a pass offers each record at most once. Of a shard that is unavailable it offers a few and keeps the
  rest, so a node that is away costs the others nothing, and a pass ends;
- records of one shard are offered in the order of the file;
- a record is forgotten once it was delivered or set aside, never before.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from gateway.ledger import journal_file
from gateway.ledger.codec.journal_records import Record
from gateway.ledger.journal_delivery import Deliver, deliver_all

Span = tuple[int, int]
"""Offset and length of a record in the file."""


@dataclass(slots=True)
class Pass:
    """What one pass did. rest: what could not be read as a record; b"" for nothing"""

    delivered: int = 0
    rejected: int = 0
    rest: bytes = b""


@dataclass(frozen=True, slots=True)
class Access:
    """The file that a backlog is in.

    read:      some bytes from an offset to at most another one; a record is read completely
    size:      how much of the file is on the disk now
    set_aside: keep records that can never be delivered. Raises OSError
    """

    read: Callable[[int, int], Awaitable[bytes]]
    size: Callable[[], int]
    set_aside: Callable[[list[Record]], Awaitable[None]]


class Backlog:
    """Which records of a file are not delivered yet.

    scanned: before this offset each record was offered; what was unavailable is kept
    settled: records that were delivered or set aside
    """

    def __init__(self, access: Access) -> None:
        self.scanned = 0
        self.settled = 0
        self._access = access
        self._kept: dict[Any, deque[Span]] = {}

    @property
    def kept(self) -> int:
        """Records before `scanned` that are not delivered."""
        return sum(map(len, self._kept.values()))

    @property
    def kept_bytes(self) -> int:
        """Their length in the file."""
        return sum(length for spans in self._kept.values() for _, length in spans)

    def spans(self) -> list[Span]:
        """Where they are, in the order of the file."""
        return sorted(span for spans in self._kept.values() for span in spans)

    def rebase(self) -> int:
        """The file was rewritten without what was delivered before `scanned`; returns how much that was."""
        moved, end = {}, 0
        for offset, length in self.spans():
            moved[offset] = end
            end += length
        self._kept = {
            shard: deque((moved[offset], length) for offset, length in spans)
            for shard, spans in self._kept.items()
        }
        removed, self.scanned = self.scanned - end, end
        return removed

    async def replay(self, deliver: Deliver) -> Pass:
        """Offer every record once, those that arrive meanwhile too. Raises OSError."""
        done, blocked = Pass(), set[Any]()
        for shard in list(self._kept):
            await self._offer_kept(shard, deliver, done, blocked)
        access = self._access
        while self.scanned < access.size():
            chunk = await access.read(self.scanned, access.size())
            batch = journal_file.next_batch(chunk)
            if not batch:
                done.rest = chunk
                break
            spans, at = [], self.scanned
            for _, length in batch:
                spans.append((at, length))
                at += length
            offered = [n for n, (record, _) in enumerate(batch) if _shard(record) not in blocked]
            refused = await self._offer([batch[n][0] for n in offered], deliver, done)
            keep = {offered[n] for n in refused} | (set(range(len(batch))) - set(offered))
            for n in sorted(keep):
                shard = _shard(batch[n][0])
                blocked.add(shard)
                self._kept.setdefault(shard, deque()).append(spans[n])
            self.scanned = at
        return done

    async def _offer_kept(
        self, shard: Any, deliver: Deliver, done: Pass, blocked: set[Any]
    ) -> None:
        spans, count = self._kept[shard], 1  # whether it is available again
        while spans:
            taken = list(islice(spans, count))
            count = journal_file.REPLAY_CONCURRENCY
            records = [await self._read(span) for span in taken]
            refused = await self._offer(records, deliver, done)
            for _ in taken:
                spans.popleft()
            spans.extendleft(reversed([taken[n] for n in refused]))
            if refused:
                blocked.add(shard)
                return
        del self._kept[shard]

    async def _read(self, span: Span) -> Record:
        offset, length = span
        ((record, _),) = journal_file.next_batch(await self._access.read(offset, offset + length))
        return record

    async def _offer(self, records: Sequence[Record], deliver: Deliver, done: Pass) -> list[int]:
        """Deliver some; returns which are unavailable."""
        outcome = await deliver_all(records, deliver)
        if outcome.rejects:
            await self._access.set_aside(outcome.rejects)
        done.delivered += outcome.delivered
        done.rejected += len(outcome.rejects)
        self.settled += outcome.delivered + len(outcome.rejects)
        return outcome.unavailable


def _shard(record: Record) -> Any:
    return record.get("shard")
