"""The embedded store as a sink: SQLite, write-ahead log, one writer thread.

`synchronous=FULL` syncs the log at each commit, so that what `write` returned survives a
power cut (sqlite.org/pragma.html#pragma_synchronous: in WAL mode NORMAL may lose it).
Events, their signals, cursors, dead letters and anomalies of a batch are one transaction.
"""

import asyncio
import fcntl
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, ClassVar, Final, TypeVar

from gateway.domain.delivery import Anomaly, DeadLetter, Place
from gateway.domain.event_rows import EventRow
from gateway.exporter.sink import Batch, Failure, Sink, SinkUnavailable, Written
from gateway.exporter.sinks.sqlite_schema import migrate

T = TypeVar("T")
Row = tuple[Any, ...]

_INSERT: Final = """
    INSERT INTO events (event_id, shard, epoch, seq, kind, occurred_at_ms, stored_at_ms,
        customer_id, request_id, price_version, amount_nano, estimated_amount_nano, cost_nano,
        balance_nano, usage, allocations, facts)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO NOTHING
"""
_MOVE_CURSOR: Final = """
    INSERT INTO cursors (shard, epoch, seq) VALUES (?, ?, ?)
    ON CONFLICT (shard) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq
    WHERE (excluded.epoch, excluded.seq) > (epoch, seq)
"""
_BURY: Final = """
    INSERT INTO dead_letters (shard, epoch, seq, event_id, reason, payload, noticed_at_ms)
    SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE NOT EXISTS (SELECT 1 FROM dead_letters
        WHERE shard = ?1 AND epoch = ?2 AND seq = ?3 AND event_id IS ?4)
"""
_SIGNAL: Final = """
    INSERT INTO signals
        (signal_id, name, customer_id, event_id, occurred_at_ms, balance_nano, numbers,
        waiting_since_ms)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_NOTE: Final = """
    INSERT INTO anomalies
        (kind, shard, after_epoch, after_seq, found_epoch, found_seq, noticed_at_ms)
    VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""


class SqliteSink(Sink):
    """Writes to one file. A second exporter on the same file waits until this one is closed."""

    name: ClassVar[str] = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._lock: IO[bytes] | None = None
        self._thread = ThreadPoolExecutor(1, "sqlite-writer")

    def __repr__(self) -> str:
        return f"SqliteSink({str(self.path)!r}, {'open' if self._connection else 'closed'})"

    async def open(self) -> Mapping[int, Place]:
        """Take the file's lock, migrate, and read the cursors."""
        return await self._in_thread(self._open)

    async def write(self, batch: Batch) -> Written:
        """Write a batch in one transaction, synced."""
        return await self._in_thread(lambda: self._write(batch))

    async def close(self) -> None:
        """Close the file and release its lock."""
        await self._in_thread(self._close)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                return work()
            except (sqlite3.OperationalError, OSError) as error:
                raise SinkUnavailable(f"{self.path.name}: {error}") from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)

    # In the writer thread

    def _open(self) -> dict[int, Place]:
        self._close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self.path.with_name(self.path.name + ".lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._close()
            raise SinkUnavailable(f"another exporter writes to {self.path.name}") from None
        connection = sqlite3.connect(self.path, isolation_level=None, cached_statements=32)
        self._connection = connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA cache_size = -32768")  # KiB
        migrate(connection)
        cursors = connection.execute("SELECT shard, epoch, seq FROM cursors")
        return {shard: Place(epoch, seq) for shard, epoch, seq in cursors}

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _write(self, batch: Batch) -> Written:
        connection = self._connection
        if connection is None:
            raise SinkUnavailable(f"{self.path.name} is not open")
        now_ms = time.time_ns() // 1_000_000
        failed: list[Failure] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            before = connection.total_changes
            connection.executemany(_INSERT, [_values(row, now_ms) for row in batch.rows])
            stored = connection.total_changes - before
            if stored < len(batch.rows):
                failed = _refused(connection, batch.rows)
            connection.executemany(_SIGNAL, ((*row, now_ms) for row in batch.signals))
            connection.executemany(_BURY, (_dead_row(letter, now_ms) for letter in batch.dead))
            connection.executemany(_NOTE, (_note_row(item, now_ms) for item in batch.anomalies))
            if not failed:
                connection.executemany(_MOVE_CURSOR, ((s, *end) for s, end in batch.ends.items()))
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        duplicates = len(batch.rows) - stored - len(failed)
        return Written(stored=stored, duplicates=duplicates, failed=failed)


def _values(row: EventRow, now_ms: int) -> Row:
    """What `_INSERT` binds. The columns that only repeat a fact are views here (`sqlite_schema`)."""
    place, rest = row[:6], row[15:]
    return (*place, now_ms, row.customer_id, row.request_id, row.price_version, *rest)


def _refused(connection: sqlite3.Connection, rows: Iterable[EventRow]) -> list[Failure]:
    """Return the rows that were not inserted and are not duplicates: another event has their
    place or id."""
    refused = []
    for row in rows:
        found = connection.execute(
            "SELECT shard, epoch, seq FROM events WHERE event_id = ?", (row.event_id,)
        ).fetchone()
        if found is None:
            refused.append(Failure(row, "another event has its place", place_taken=True))
        elif found != (row.shard, row.epoch, row.seq):
            refused.append(Failure(row, "its id is already stored for another place"))
    return refused


def _dead_row(letter: DeadLetter, now_ms: int) -> Row:
    place = (letter.shard, letter.epoch, letter.seq)
    return (*place, letter.event_id, letter.reason, letter.payload, now_ms)


def _note_row(anomaly: Anomaly, now_ms: int) -> Row:
    return (anomaly.kind, anomaly.shard, *anomaly.after, *anomaly.found, now_ms)
