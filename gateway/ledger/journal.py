"""The settle journal: settles and releases that could not be delivered wait here, on disk.

Invariants:
- `append` returns once the record is on the disk; all that wait meanwhile share one fsync, in a
  thread of the journal's own, never on the loop;
- a record may be delivered more than once (a crash between delivery and truncation), so what is
  journaled is idempotent by its id. It is never dropped: what cannot be delivered for a reason
  other than `LedgerUnavailable` is set aside in `NAME.rejected`;
- one file per process, `settles-PID-START.journal`, locked while its writer lives. A file whose
  lock is free is an orphan: `replay_orphan` delivers it and removes it.

Layout: records of `length u32, crc32 u32` (little-endian, of the payload), payload: a msgpack
map. What follows the last complete record is torn: it was never acknowledged, and is ignored. What
does not match its checksum is damage: the file is kept as `NAME.damaged` for people to look at.
"""

import asyncio
import fcntl
import os
import struct
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack

from gateway.ledger.client.errors import LedgerUnavailable

Record = Mapping[str, Any]
Deliver = Callable[[Record], Awaitable[object]]
"""Delivers one record. Raises LedgerUnavailable to be asked again later; any other exception
says that this record can never be delivered."""

REPLAY_CONCURRENCY: Final = 64
_HEAD: Final = struct.Struct("<II")
LARGEST_RECORD_BYTES: Final = 256 << 10
_READ_BYTES: Final = _HEAD.size + LARGEST_RECORD_BYTES  # a complete record always fits


class JournalFull(Exception):
    """The journal has reached its size. The record was not taken."""


class JournalFailed(Exception):
    """The disk refused. The record may or may not be there after a crash."""


class JournalInUse(Exception):
    """The file's writer still lives."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did. left: records that still wait. damaged_bytes: unreadable ones."""

    delivered: int
    rejected: int
    left: int
    damaged_bytes: int = 0


class SettleJournal:
    """One process's journal. Use it from one event loop; `await close()` when done."""

    def __init__(self, folder: Path, *, max_bytes: int = 256 << 20) -> None:
        """Creates the file, empty and locked. Raises OSError if it cannot."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = folder / f"settles-{os.getpid()}-{time.time_ns():x}.journal"
        self._max_bytes = max_bytes
        self._fd = os.open(
            self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _sync_folder(folder)
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
        payload = msgpack.packb(dict(record))
        if len(payload) > LARGEST_RECORD_BYTES:
            raise ValueError(f"a record of {len(payload)} bytes is too large for the journal")
        framed = _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
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
        await self._set_aside([_rejected(record, error)])

    async def replay(self, deliver: Deliver) -> Replayed:
        """Deliver what waits, oldest first, up to 64 at a time; empties the file when all is done.

        Stops at the first LedgerUnavailable: the rest (and some that were delivered) stay.
        Records that arrive meanwhile are delivered too.
        """
        async with self._replaying:
            delivered = rejected = 0
            while self._delivered < self._size:
                chunk = await self._in_thread(_read, self._fd, self._delivered, self._size)
                batch = list(_batch(chunk))
                assert batch, "a record that the gate wrote is incomplete"
                outcome = await _deliver_all([record for record, _ in batch], deliver)
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
            _retire(self.path, 0)
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
                    await self._in_thread(_write, self._fd, data)
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
        if isinstance(error, _FsyncFailed) or not isinstance(error, OSError):
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
                await self._in_thread(_truncate, self._fd)
            except OSError as fault:
                self._broken = f"the settle journal cannot be emptied: {fault}"

    async def _set_aside(self, rejects: list[Record]) -> None:
        if rejects:
            await self._in_thread(_append_rejects, self.path, rejects)

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)


def orphans(folder: Path) -> list[Path]:
    """Journals whose writer is dead, oldest first."""
    found = []
    for path in sorted(folder.glob("settles-*.journal"), key=_modified_at):
        try:
            fd = _lock_orphan(path)
        except (JournalInUse, FileNotFoundError):
            continue
        os.close(fd)
        found.append(path)
    return found


async def replay_orphan(path: Path, deliver: Deliver) -> Replayed:
    """Deliver a dead writer's journal and remove it.

    Stops at LedgerUnavailable and leaves the file for the next attempt. Raises JournalInUse if
    its writer lives or another process replays it, FileNotFoundError if it is gone.
    """
    fd = await asyncio.to_thread(_lock_orphan, path)
    try:
        size = os.fstat(fd).st_size
        offset = delivered = rejected = 0
        while True:
            chunk = await asyncio.to_thread(_read, fd, offset, size)
            batch = list(_batch(chunk))
            if not batch:
                break
            outcome = await _deliver_all([record for record, _ in batch], deliver)
            delivered += outcome.delivered
            if outcome.unavailable:
                left = await asyncio.to_thread(_count, fd, offset, size)
                return Replayed(delivered, rejected, left)
            if outcome.rejects:
                await asyncio.to_thread(_append_rejects, path, outcome.rejects)
                rejected += len(outcome.rejects)
            offset += sum(length for _, length in batch)
        damaged = 0 if _is_torn(chunk) else size - offset
        await asyncio.to_thread(_retire, path, damaged)
        return Replayed(delivered, rejected, 0, damaged)
    finally:
        os.close(fd)


@dataclass(slots=True)
class _Outcome:
    delivered: int
    rejects: list[Record]
    unavailable: bool


async def _deliver_all(records: list[Record], deliver: Deliver) -> _Outcome:
    results = await asyncio.gather(*(deliver(r) for r in records), return_exceptions=True)
    outcome = _Outcome(0, [], False)
    for record, result in zip(records, results, strict=True):
        if isinstance(result, LedgerUnavailable):
            outcome.unavailable = True
        elif isinstance(result, Exception):
            outcome.rejects.append(_rejected(record, result))
        elif isinstance(result, BaseException):
            raise result
        else:
            outcome.delivered += 1
    return outcome


def _rejected(record: Record, error: Exception) -> Record:
    return {"error": f"{type(error).__name__}: {error}", **record}


def _batch(chunk: bytes) -> Iterator[tuple[Record, int]]:
    """The first records of a chunk with their lengths on disk; stops at what is not whole."""
    at = 0
    for _ in range(REPLAY_CONCURRENCY):
        if at + _HEAD.size > len(chunk):
            return
        length, checksum = _HEAD.unpack_from(chunk, at)
        payload = chunk[at + _HEAD.size : at + _HEAD.size + length]
        if not 0 < length <= LARGEST_RECORD_BYTES or len(payload) < length:
            return
        if zlib.crc32(payload) != checksum:
            return
        yield msgpack.unpackb(payload), _HEAD.size + length
        at += _HEAD.size + length


def _is_torn(rest: bytes) -> bool:
    """Whether what no longer parses is only the beginning of a record: a write cut short."""
    if len(rest) < _HEAD.size:
        return True
    length: int = _HEAD.unpack_from(rest)[0]
    if not any(rest):
        return True  # zeros: the file had grown, its data had not arrived
    return length <= LARGEST_RECORD_BYTES and _HEAD.size + length > len(rest)


# In a thread


_sync: Final = getattr(os, "fdatasync", os.fsync)


class _FsyncFailed(OSError):
    """fsync, not write, failed."""


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    try:
        _sync(fd)
    except OSError as error:
        raise _FsyncFailed(*error.args) from None


def _read(fd: int, start: int, end: int) -> bytes:
    return os.pread(fd, min(_READ_BYTES, end - start), start)


def _count(fd: int, start: int, end: int) -> int:
    count = 0
    while batch := list(_batch(_read(fd, start, end))):
        count += len(batch)
        start += sum(length for _, length in batch)
    return count


def _truncate(fd: int) -> None:
    os.ftruncate(fd, 0)
    os.fsync(fd)


def _retire(path: Path, damaged_bytes: int) -> None:
    if damaged_bytes:
        path.rename(path.with_suffix(".damaged"))
    else:
        path.unlink()


def _append_rejects(path: Path, rejects: list[Record]) -> None:
    """Set records aside in a file of the same layout, its reason under `error`."""
    payloads = [msgpack.packb(dict(record)) for record in rejects]
    fd = os.open(
        path.with_suffix(".rejected"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    try:
        _write(fd, b"".join(_HEAD.pack(len(p), zlib.crc32(p)) + p for p in payloads))
    finally:
        os.close(fd)
    _sync_folder(path.parent)


def _lock_orphan(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink == 0:  # replayed and removed while we opened it
            raise FileNotFoundError(path)
    except BlockingIOError:
        os.close(fd)
        raise JournalInUse(f"{path.name} belongs to a living process") from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
