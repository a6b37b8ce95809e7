"""The settle journal's files. Every function here blocks: call it in a thread."""

import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gateway.ledger.codec.journal_records import (
    HEAD_BYTES,
    LARGEST_RECORD_BYTES,
    Record,
    pack_record,
    read_records,
)

REPLAY_CONCURRENCY: Final = 64
"""Records that are delivered at a time."""
_READ_BYTES: Final = HEAD_BYTES + LARGEST_RECORD_BYTES  # a complete record always fits

_FRESH: Final = ".kept"
"""Of a file that is being written in place of a journal; `find` does not see it."""
_sync: Final = getattr(os, "fdatasync", os.fsync)


class JournalInUse(Exception):
    """The file's writer still lives."""


class FsyncFailed(OSError):
    """fsync, not write, failed."""


def create(folder: Path) -> tuple[Path, int]:
    """A new journal of this process, empty and locked: path, descriptor. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"settles-{os.getpid()}-{time.time_ns():x}.journal"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    sync_folder(folder)
    return path, fd


def find(folder: Path) -> list[Path]:
    """All journals of a folder, oldest first."""
    return sorted(folder.glob("settles-*.journal"), key=_modified_at)


def write(fd: int, data: bytes) -> None:
    """Append and flush to the disk. Raises FsyncFailed, OSError."""
    write_all(fd, data)
    try:
        _sync(fd)
    except OSError as error:
        raise FsyncFailed(*error.args) from None


def write_all(fd: int, data: bytes) -> None:
    """Append. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read(fd: int, start: int, end: int) -> bytes:
    """The bytes from `start` to at most `end`, as many as one complete record can have."""
    return os.pread(fd, min(_READ_BYTES, end - start), start)


def next_batch(chunk: bytes) -> list[tuple[Record, int]]:
    """The first records of a chunk that are delivered together, with their lengths in bytes."""
    return list(read_records(chunk, REPLAY_CONCURRENCY))


def truncate(fd: int) -> None:
    """Empty the file. Raises OSError."""
    os.ftruncate(fd, 0)
    os.fsync(fd)


def retire(path: Path, damaged_bytes: int) -> None:
    """Remove a file that was delivered; one with damage is kept as `NAME.damaged`."""
    path.with_suffix(_FRESH).unlink(missing_ok=True)  # of a writer that died in `keep_only`
    if damaged_bytes:
        path.rename(path.with_suffix(".damaged"))
    else:
        path.unlink()


def keep_only(path: Path, fd: int, spans: Sequence[tuple[int, int]]) -> int:
    """Replace a journal by these parts of it, offset and length each; returns the new descriptor, locked.

    The old one is left open. Raises OSError: then nothing has changed. `sync_folder` makes it last.
    """
    fresh = path.with_suffix(_FRESH)
    new = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for offset, length in spans:
            end = offset + length
            while offset < end:
                part = os.pread(fd, min(_READ_BYTES, end - offset), offset)
                if not part:
                    raise OSError(f"{path.name} is shorter than it was")
                write_all(new, part)
                offset += len(part)
        _sync(new)
        fresh.rename(path)
    except BaseException:
        os.close(new)
        fresh.unlink(missing_ok=True)
        raise
    return new


def append_rejects(path: Path, rejects: list[Record]) -> None:
    """Set records aside in a file of the same layout, each with its reason under `error`."""
    fd = os.open(
        path.with_suffix(".rejected"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    try:
        write(fd, b"".join(map(pack_record, rejects)))
    finally:
        os.close(fd)
    sync_folder(path.parent)


def lock_orphan(path: Path) -> int:
    """Open and lock a dead writer's file. Raises JournalInUse, FileNotFoundError."""
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


def sync_folder(folder: Path) -> None:
    """Make renames and new files in a folder last. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
