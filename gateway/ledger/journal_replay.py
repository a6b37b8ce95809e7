"""Delivers what a settle journal holds, a living process's or a dead one's."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.ledger import journal_file
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.journal_records import Record, is_torn

Deliver = Callable[[Record], Awaitable[object]]
"""Delivers one record. Raises LedgerUnavailable to be asked again later; any other exception
says that this record can never be delivered."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did. left: records that still wait. damaged_bytes: unreadable ones."""

    delivered: int
    rejected: int
    left: int
    damaged_bytes: int = 0


def orphans(folder: Path) -> list[Path]:
    """Journals whose writer is dead, oldest first."""
    found = []
    for path in journal_file.find(folder):
        try:
            fd = journal_file.lock_orphan(path)
        except (journal_file.JournalInUse, FileNotFoundError):
            continue
        os.close(fd)
        found.append(path)
    return found


async def replay_orphan(path: Path, deliver: Deliver) -> Replayed:
    """Deliver a dead writer's journal and remove it.

    Stops at LedgerUnavailable and leaves the file for the next attempt. Raises JournalInUse if
    its writer lives or another process replays it, FileNotFoundError if it is gone.
    """
    fd = await asyncio.to_thread(journal_file.lock_orphan, path)
    try:
        size = os.fstat(fd).st_size
        offset = delivered = rejected = 0
        while True:
            chunk = await asyncio.to_thread(journal_file.read, fd, offset, size)
            batch = journal_file.next_batch(chunk)
            if not batch:
                break
            outcome = await deliver_all([record for record, _ in batch], deliver)
            delivered += outcome.delivered
            if outcome.unavailable:
                left = await asyncio.to_thread(journal_file.count, fd, offset, size)
                return Replayed(delivered, rejected, left)
            if outcome.rejects:
                await asyncio.to_thread(journal_file.append_rejects, path, outcome.rejects)
                rejected += len(outcome.rejects)
            offset += sum(length for _, length in batch)
        damaged = 0 if is_torn(chunk) else size - offset
        await asyncio.to_thread(journal_file.retire, path, damaged)
        return Replayed(delivered, rejected, 0, damaged)
    finally:
        os.close(fd)


@dataclass(slots=True)
class Outcome:
    """What became of records that were delivered together."""

    delivered: int
    rejects: list[Record]
    unavailable: bool


async def deliver_all(records: list[Record], deliver: Deliver) -> Outcome:
    """Deliver records concurrently. rejects: those that can never be delivered, with their reason."""
    results = await asyncio.gather(*(deliver(r) for r in records), return_exceptions=True)
    outcome = Outcome(0, [], False)
    for record, result in zip(records, results, strict=True):
        if isinstance(result, LedgerUnavailable):
            outcome.unavailable = True
        elif isinstance(result, Exception):
            outcome.rejects.append(rejected_record(record, result))
        elif isinstance(result, BaseException):
            raise result
        else:
            outcome.delivered += 1
    return outcome


def rejected_record(record: Record, error: Exception) -> Record:
    """A record that can never be delivered, as it is set aside."""
    return {"error": f"{type(error).__name__}: {error}", **record}
