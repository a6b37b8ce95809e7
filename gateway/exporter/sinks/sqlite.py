"""The embedded store as a sink: SQLite, write-ahead log, one writer thread.

`synchronous=FULL` syncs the log at each commit, so that what `write` returned survives a
power cut (sqlite.org/pragma.html#pragma_synchronous: in WAL mode NORMAL may lose it).
Events, their signals, cursors, dead letters and anomalies of a batch are one transaction.
"""

import asyncio
import fcntl
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple
from typing import IO, Any, ClassVar, Final, TypeVar

from gateway.domain.delivery import Anomaly, DeadLetter, Place
from gateway.domain.event_rows import COLUMNS, EventRow
from gateway.domain.refusals import MOST_NANO, RefusalHour
from gateway.exporter.sink import (
    Batch,
    Failure,
    PlacesTaken,
    SinkInUse,
    SinkUnavailable,
    Store,
    Written,
)
from gateway.exporter.sinks.options import SqliteOptions
from gateway.exporter.sinks.sqlite_schema import migrate, row_from

T = TypeVar("T")
Row = tuple[Any, ...]

_STORED: Final = tuple(
    name
    for name in COLUMNS
    if name not in ("project_id", "key_id", "route", "model", "upstream", "livemode")
)
"""Columns of the table; the others only repeat a fact, and are computed by the view `event_rows`."""
_INSERT: Final = f"""
    INSERT INTO events (stored_at_ms, {", ".join(_STORED)})
    VALUES (?{len(COLUMNS) + 1}, {", ".join(f"?{COLUMNS.index(name) + 1}" for name in _STORED)})
    ON CONFLICT DO NOTHING
"""  # noqa: S608 - names of columns
_MOVE_CURSOR: Final = """
    INSERT INTO cursors (shard, epoch, seq) VALUES (?, ?, ?)
    ON CONFLICT (shard) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq
    WHERE (excluded.epoch, excluded.seq) > (epoch, seq)
"""
_BURY: Final = """
    INSERT INTO dead_letters (shard, epoch, seq, event_id, reason, payload, noticed_at_ms, sink)
    SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 WHERE NOT EXISTS (SELECT 1 FROM dead_letters
        WHERE shard = ?1 AND epoch = ?2 AND seq = ?3 AND event_id IS ?4 AND sink = ?8)
"""
_BEYOND: Final = f"""
    SELECT {", ".join(COLUMNS)} FROM event_rows
    WHERE shard = ? AND (epoch, seq) > (?, ?) ORDER BY epoch, seq LIMIT ?
"""  # noqa: S608 - names of columns
_SINK_CURSORS: Final = "SELECT shard, epoch, seq FROM sink_cursors WHERE sink = ?"
_MOVE_SINK: Final = """
    INSERT INTO sink_cursors (sink, shard, epoch, seq) VALUES (?, ?, ?, ?)
    ON CONFLICT (sink, shard) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq
    WHERE (excluded.epoch, excluded.seq) > (epoch, seq)
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
_MOVE_REFUSALS: Final = "UPDATE refusal_cursor SET entry = ?2 WHERE entry = ?1"
_ADD_REFUSALS: Final = f"""
    INSERT INTO refusals (hour_ms, customer_id, model, reason, count, estimated_nano)
    VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (hour_ms, customer_id, model, reason) DO UPDATE SET
        count = count + excluded.count,
        estimated_nano = min({MOST_NANO}, estimated_nano + excluded.estimated_nano)
"""  # noqa: S608 - a number


class SqliteSink(Store):
    """Writes to one file. A second exporter on the same file waits until this one is closed."""

    name: ClassVar[str] = "sqlite"

    def __init__(self, options: SqliteOptions) -> None:
        self.path = options.path
        self._store_id = ""
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

    @property
    def store_id(self) -> str:
        """See `Store`."""
        assert self._store_id, "the store has not been opened"
        return self._store_id

    async def read_beyond(self, places: Mapping[int, Place], limit: int) -> Sequence[EventRow]:
        """See `Store`."""
        return await self._in_thread(lambda: self._read_beyond(places, limit))

    async def sink_cursors(self, sink: str) -> Mapping[int, Place]:
        """See `Store`."""
        return await self._in_thread(lambda: _cursors(self._opened.execute(_SINK_CURSORS, (sink,))))

    async def note_sink(
        self, sink: str, ends: Mapping[int, Place], dead: Sequence[DeadLetter] = ()
    ) -> None:
        """See `Store`."""
        await self._in_thread(lambda: self._note_sink(sink, ends, dead))

    async def refusal_cursor(self) -> str:
        """See `Store`."""
        return await self._in_thread(self._refusal_cursor)

    async def add_refusals(self, hours: Sequence[RefusalHour], after: str, cursor: str) -> bool:
        """See `Store`."""
        return await self._in_thread(lambda: self._add_refusals(hours, after, cursor))

    async def close(self) -> None:
        """Close the file and release its lock."""
        await self._in_thread(self._close)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                return work()
            except (sqlite3.OperationalError, OSError) as error:
                raise SinkUnavailable(f"{self.path.name}: {error}") from error
            except sqlite3.DatabaseError as error:
                if type(error) is not sqlite3.DatabaseError:
                    raise  # a constraint, or wrong use: a bug
                # The file is damaged, or no database: for the operator to replace.
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
            raise SinkInUse(
                f"an exporter writes to {self.path.name}, which takes one at a time"
            ) from None
        connection = sqlite3.connect(self.path, isolation_level=None, cached_statements=32)
        self._connection = connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA cache_size = -32768")  # KiB
        # A checkpoint copies each changed page once: at 64 MiB instead of 4, the pages that every batch
        # changes are copied less often (a third of the system time).
        connection.execute("PRAGMA wal_autocheckpoint = 16384")  # pages
        migrate(connection)
        ((self._store_id,),) = connection.execute("SELECT store_id FROM store")
        return _cursors(connection.execute("SELECT shard, epoch, seq FROM cursors"))

    @property
    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise SinkUnavailable(f"{self.path.name} is not open")
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _write(self, batch: Batch) -> Written:
        rows, taken = batch.rows, list[Failure]()
        while True:
            try:
                return self._write_rows(rows, batch, taken)
            except PlacesTaken as found:
                rows = found.others(rows)
                taken += found.failures

    def _write_rows(
        self, rows: Sequence[EventRow], batch: Batch, taken: Sequence[Failure]
    ) -> Written:
        """Write a batch without rows of shards whose places are taken. Raises PlacesTaken."""
        connection = self._opened
        now_ms = time.time_ns() // 1_000_000
        failed: list[Failure] = []
        with _transaction(connection):
            before = connection.total_changes
            connection.executemany(_INSERT, [(*row, now_ms) for row in rows])
            stored = connection.total_changes - before
            if stored < len(rows):
                failed = _refused(connection, rows)
                PlacesTaken.check(failed)
            connection.executemany(_SIGNAL, ((*row, now_ms) for row in batch.signals))
            connection.executemany(_BURY, (_dead_row(letter, now_ms) for letter in batch.dead))
            connection.executemany(_NOTE, (_note_row(item, now_ms) for item in batch.anomalies))
            if not failed and not taken:
                connection.executemany(_MOVE_CURSOR, ((s, *end) for s, end in batch.ends.items()))
        duplicates = len(rows) - stored - len(failed)
        return Written(stored=stored, duplicates=duplicates, failed=[*taken, *failed])

    def _read_beyond(self, places: Mapping[int, Place], limit: int) -> list[EventRow]:
        rows: list[EventRow] = []
        for shard, (epoch, seq) in sorted(places.items()):
            asked = (shard, epoch, seq, limit - len(rows))
            rows += [row_from(values) for values in self._opened.execute(_BEYOND, asked)]
            if len(rows) >= limit:
                break
        return rows

    def _note_sink(self, sink: str, ends: Mapping[int, Place], dead: Sequence[DeadLetter]) -> None:
        connection, now_ms = self._opened, time.time_ns() // 1_000_000
        with _transaction(connection):
            connection.executemany(_MOVE_SINK, ((sink, s, *end) for s, end in ends.items()))
            connection.executemany(_BURY, (_dead_row(each, now_ms, sink) for each in dead))

    def _refusal_cursor(self) -> str:
        ((entry,),) = self._opened.execute("SELECT entry FROM refusal_cursor")
        return str(entry)

    def _add_refusals(self, hours: Sequence[RefusalHour], after: str, cursor: str) -> bool:
        connection = self._opened
        with _transaction(connection):
            moved = connection.execute(_MOVE_REFUSALS, (after, cursor)).rowcount == 1
            if moved:
                connection.executemany(_ADD_REFUSALS, map(astuple, hours))
        return moved


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


def _dead_row(letter: DeadLetter, now_ms: int, sink: str = "") -> Row:
    place = (letter.shard, letter.epoch, letter.seq)
    return (*place, letter.event_id, letter.reason, letter.payload, now_ms, sink)


def _cursors(rows: Iterable[Row]) -> dict[int, Place]:
    return {shard: Place(epoch, seq) for shard, epoch, seq in rows}


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _note_row(anomaly: Anomaly, now_ms: int) -> Row:
    return (anomaly.kind, anomaly.shard, *anomaly.after, *anomaly.found, now_ms)
