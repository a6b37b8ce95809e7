"""The settle journal: settles and releases that could not be delivered wait here, on disk.

Invariants:
- `append` returns once the record is on the disk; all that wait meanwhile share one fsync, in a
  thread that only the journal uses, never on the loop;
- a record may be delivered more than once (a crash between delivery and truncation), so what is
  journaled is idempotent by its id. It is never dropped: what cannot be delivered for a reason
  other than `LedgerUnavailable` is set aside in `NAME.rejected`;
- what is unavailable keeps nothing else from being delivered. It stays where it is in the file, and
  the file is rewritten without the rest before that is offered again by a later process: written
  aside, flushed, and renamed over the old one, so that a crash leaves one or the other;
- one file per process, `settles-PID-START.journal`, locked while its writer lives. A file whose
  lock is free is an orphan: `journal_replay` delivers it and removes it.

`codec/journal_records.py` describes the layout. What follows the last complete record is torn: it
was never acknowledged, and is ignored. What does not match its checksum is damage: the file is kept
as `NAME.damaged` for people to look at.
"""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from gateway.ledger import journal_file
from gateway.ledger.codec.journal_records import (
    HEAD_BYTES,
    LARGEST_RECORD_BYTES,
    Record,
    pack_record,
)
from gateway.ledger.journal_backlog import Access, Backlog
from gateway.ledger.journal_delivery import Deliver, rejected_record
from gateway.ledger.journal_replay import Replayed

REWRITE_EVERY_S: Final = 30.0
"""How long delivered records may lie among others: one that is offered again after its tombstone is
gone would count as too old."""


class JournalFull(Exception):
    """The journal has reached its size. The record was not taken."""


class JournalFailed(Exception):
    """The disk refused. The record may or may not be there after a crash."""


class SettleJournal:
    """One process's journal. Use it from one event loop; `await close()` when done."""

    def __init__(self, folder: Path, *, max_bytes: int = 256 << 20) -> None:
        """Create the file, empty and locked. Raises OSError if it cannot."""
        self.path, self._fd = journal_file.create(folder)
        self._max_bytes = max_bytes
        self._size = 0  # on the disk
        self._backlog = Backlog(Access(self._read, lambda: self._size, self._set_aside))
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._waiting_bytes = 0
        self._writer: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="settle-journal")
        self._replaying = asyncio.Lock()
        self._appended = 0  # records
        self._rewriting: asyncio.Task[None] | None = None
        self._rewritten_at = time.monotonic()
        self._broken: str | None = None

    @property
    def size_bytes(self) -> int:
        """What waits for delivery, and what was delivered since the file was last emptied."""
        return self._size + self._waiting_bytes

    @property
    def waiting_records(self) -> int:
        """Records on the disk that have not been delivered."""
        return self._appended - self._backlog.settled

    async def append(self, record: Record) -> None:
        """Keep a record; returns once it is on the disk. A cancelled call may have kept it.

        Raises JournalFull, JournalFailed, ValueError (larger than 256 KiB).
        """
        framed = pack_record(record)
        if len(framed) > HEAD_BYTES + LARGEST_RECORD_BYTES:
            size = len(framed) - HEAD_BYTES
            raise ValueError(f"a record of {size} bytes is too large for the journal")
        if self._broken is not None:
            raise JournalFailed(self._broken)
        if self.size_bytes + len(framed) > self._max_bytes:
            raise JournalFull(f"the settle journal has reached {self._max_bytes} bytes")
        on_disk = asyncio.get_running_loop().create_future()
        self._waiting.append((framed, on_disk))
        self._waiting_bytes += len(framed)
        self._start_writer()
        await on_disk

    async def set_aside(self, record: Record, error: Exception) -> None:
        """Keep, in `NAME.rejected`, a record that can never be delivered. Raises OSError."""
        await self._set_aside([rejected_record(record, error)])

    async def replay(self, deliver: Deliver) -> Replayed:
        """Deliver what waits, of each shard oldest first, up to 64 at a time; empties the file when all
        is done.

        What raises LedgerUnavailable stays, with what follows of the same shard. Records that arrive
        meanwhile are delivered too.
        """
        async with self._replaying:
            await self._end_rewriting()
            done = await self._backlog.replay(deliver)
            assert not done.rest, "a record that the gate wrote is incomplete"
            await self._compact()
            await self._end_rewriting()
            return Replayed(done.delivered, done.rejected, self.waiting_records)

    async def close(self) -> None:
        """Finish writing. The file is removed when empty, else it is left for `orphans`."""
        while self._writer is not None:
            await asyncio.wait([self._writer])
        await self._end_rewriting()
        if self._broken is None and self.waiting_records:
            self._start_rewriting()
            await self._end_rewriting()
        self._thread.shutdown()
        if self._broken is None and not self.waiting_records:
            journal_file.retire(self.path, 0)
        self._broken = "the settle journal is closed"
        os.close(self._fd)

    # Writing

    def _start_writer(self) -> None:
        if self._waiting and self._writer is None and self._rewriting is None:
            self._writer = asyncio.create_task(self._write_waiting())

    async def _write_waiting(self) -> None:
        """Group commit: while one fsync runs, the next group gathers."""
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                data = b"".join(framed for framed, _ in group)
                error: Exception | None = None
                try:
                    await self._in_thread(journal_file.write, self._fd, data)
                except Exception as fault:
                    error = fault
                self._waiting_bytes -= len(data)
                if error is None:
                    self._size += len(data)
                    self._appended += len(group)
                else:
                    await self._undo(error)
                for _, on_disk in group:
                    if on_disk.done():
                        continue
                    if error is None:
                        on_disk.set_result(None)
                    else:
                        on_disk.set_exception(JournalFailed(f"the disk refused: {error}"))
        finally:
            self._writer = None

    async def _undo(self, error: Exception) -> None:
        """Cut off what a failed write left. A failed fsync can leave pages that claim to be
        clean, so nothing that this file says can be trusted after one."""
        if isinstance(error, journal_file.FsyncFailed) or not isinstance(error, OSError):
            self._broken = f"the settle journal cannot be flushed: {error}"
            return
        try:
            await self._in_thread(os.ftruncate, self._fd, self._size)
        except OSError as fault:
            self._broken = f"the settle journal cannot be repaired: {fault}"

    async def _compact(self) -> None:
        """Empty the file if all of it was delivered and nothing is being written; rewrite it when much
        of it was delivered, or some a while ago."""
        if not self._size or self._writer is not None:
            return
        if not self.waiting_records:
            # No append can slip in: it would need the journal's only thread, which is ours.
            self._backlog.scanned = self._size = 0
            try:
                await self._in_thread(journal_file.truncate, self._fd)
            except OSError as fault:
                self._broken = f"the settle journal cannot be emptied: {fault}"
            return
        done_bytes = self._backlog.scanned - self._backlog.kept_bytes
        if done_bytes * 2 > self._size or time.monotonic() - self._rewritten_at > REWRITE_EVERY_S:
            self._start_rewriting()

    def _start_rewriting(self) -> None:
        """Appends wait meanwhile. In a task, because whoever is cancelled must not stop it half-way."""
        if self._backlog.scanned > self._backlog.kept_bytes:
            self._rewriting = asyncio.create_task(self._rewrite())

    async def _end_rewriting(self) -> None:
        while self._rewriting is not None:
            await asyncio.wait([self._rewriting])

    async def _rewrite(self) -> None:
        """Leave out of the file what was delivered; a full disk leaves it as it is, for a later time."""
        self._rewritten_at = time.monotonic()
        backlog, rest = self._backlog, self._size - self._backlog.scanned
        spans = [*backlog.spans(), (backlog.scanned, rest)]
        try:
            try:
                fd = await self._in_thread(journal_file.keep_only, self.path, self._fd, spans)
            except OSError:
                return
            os.close(self._fd)
            self._fd = fd
            self._size -= backlog.rebase()
            await self._in_thread(journal_file.sync_folder, self.path.parent)
        except OSError as fault:
            self._broken = f"the settle journal cannot be flushed: {fault}"
        finally:
            self._rewriting = None
            self._start_writer()

    async def _read(self, start: int, end: int) -> bytes:
        chunk: bytes = await self._in_thread(journal_file.read, self._fd, start, end)
        return chunk

    async def _set_aside(self, rejects: list[Record]) -> None:
        await self._in_thread(journal_file.append_rejects, self.path, rejects)

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
