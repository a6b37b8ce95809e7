"""The settle journal: settles and releases that could not be delivered wait here, on disk.

Invariants:
- `append` returns once the record is on the disk; all that wait meanwhile share one fsync, in a
  thread that only the journal uses, never on the loop;
- a record may be delivered more than once (a crash between delivery and truncation), so what is
  journaled is idempotent by its id. It is never dropped: what cannot be delivered for a reason
  other than `LedgerUnavailable` is set aside in `NAME.rejected`;
- one file per process, `settles-PID-START.journal`, locked while its writer lives. A file whose
  lock is free is an orphan: `journal_replay` delivers it and removes it.

`codec/journal_records.py` describes the layout. What follows the last complete record is torn: it
was never acknowledged, and is ignored. What does not match its checksum is damage: the file is kept
as `NAME.damaged` for people to look at.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gateway.ledger import journal_file
from gateway.ledger.codec.journal_records import (
    HEAD_BYTES,
    LARGEST_RECORD_BYTES,
    Record,
    pack_record,
)
from gateway.ledger.journal_replay import Deliver, Replayed, deliver_all, rejected_record


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
        self._delivered = 0  # bytes from the start that need no replay
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._waiting_bytes = 0
        self._writer: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="settle-journal")
        self._replaying = asyncio.Lock()
        self._records = 0
        self._broken: str | None = None

    @property
    def size_bytes(self) -> int:
        """What waits for delivery, and what was delivered since the file was last emptied."""
        return self._size + self._waiting_bytes

    @property
    def waiting_records(self) -> int:
        """Records on the disk that have not been delivered."""
        return self._records

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
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_waiting())
        await on_disk

    async def set_aside(self, record: Record, error: Exception) -> None:
        """Keep, in `NAME.rejected`, a record that can never be delivered. Raises OSError."""
        await self._set_aside([rejected_record(record, error)])

    async def replay(self, deliver: Deliver) -> Replayed:
        """Deliver what waits, oldest first, up to 64 at a time; empties the file when all is done.

        Stops at the first LedgerUnavailable: the rest (and some that were delivered) stay.
        Records that arrive meanwhile are delivered too.
        """
        async with self._replaying:
            delivered = rejected = 0
            while self._delivered < self._size:
                chunk = await self._in_thread(
                    journal_file.read, self._fd, self._delivered, self._size
                )
                batch = journal_file.next_batch(chunk)
                assert batch, "a record that the gate wrote is incomplete"
                outcome = await deliver_all([record for record, _ in batch], deliver)
                delivered += outcome.delivered
                if outcome.unavailable:
                    break
                await self._set_aside(outcome.rejects)
                rejected += len(outcome.rejects)
                self._delivered += sum(length for _, length in batch)
                self._records -= len(batch)
            await self._compact()
            return Replayed(delivered, rejected, self._records)

    async def close(self) -> None:
        """Finish writing. The file is removed when empty, else it is left for `orphans`."""
        while self._writer is not None:
            await asyncio.wait([self._writer])
        self._thread.shutdown()
        if self._delivered == self._size and self._broken is None:
            journal_file.retire(self.path, 0)
        self._broken = "the settle journal is closed"
        os.close(self._fd)

    # Writing

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
                    self._records += len(group)
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
        """Empty the file if all of it was delivered and nothing is being written."""
        if self._size and self._delivered == self._size and self._writer is None:
            # No append can slip in: it would need the journal's only thread, which is ours.
            self._size = self._delivered = 0
            try:
                await self._in_thread(journal_file.truncate, self._fd)
            except OSError as fault:
                self._broken = f"the settle journal cannot be emptied: {fault}"

    async def _set_aside(self, rejects: list[Record]) -> None:
        if rejects:
            await self._in_thread(journal_file.append_rejects, self.path, rejects)

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
