"""Delivers what dead processes' settle journals hold."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from gateway.ledger import journal_file
from gateway.ledger.codec.journal_records import Record, is_torn
from gateway.ledger.journal_backlog import Access, Backlog
from gateway.ledger.journal_delivery import Deliver


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

    What is unavailable stays in the file, without what was delivered, for the next attempt. Raises
    JournalInUse if its writer lives or another process replays it, FileNotFoundError if it is gone.
    """
    fd = await asyncio.to_thread(journal_file.lock_orphan, path)
    try:
        size = os.fstat(fd).st_size

        async def read(start: int, end: int) -> bytes:
            return await asyncio.to_thread(journal_file.read, fd, start, end)

        async def set_aside(rejects: list[Record]) -> None:
            await asyncio.to_thread(journal_file.append_rejects, path, rejects)

        backlog = Backlog(Access(read, lambda: size, set_aside))
        done = await backlog.replay(deliver)
        if backlog.kept:
            if backlog.settled:
                tail = [(backlog.scanned, size - backlog.scanned)]
                await asyncio.to_thread(_keep_only, path, fd, [*backlog.spans(), *tail])
            return Replayed(done.delivered, done.rejected, backlog.kept)
        damaged = 0 if is_torn(done.rest) else size - backlog.scanned
        await asyncio.to_thread(journal_file.retire, path, damaged)
        return Replayed(done.delivered, done.rejected, 0, damaged)
    finally:
        os.close(fd)


def _keep_only(path: Path, fd: int, spans: list[tuple[int, int]]) -> None:
    os.close(journal_file.keep_only(path, fd, spans))
    journal_file.sync_folder(path.parent)
