"""Postgres as a sink and as the required store.

Each batch is one transaction: its rows are copied in the binary format into a temporary table, those that
are new are inserted from there, and the cursors move. A commit is on the server's disk before it is
acknowledged (`synchronous_commit`), so what `write` returned survives a crash. Several exporters may write
at once: no table is locked, and one that inserts an event that another is inserting waits for its commit.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from typing import Any, ClassVar, Final

from asyncpg import Connection, PostgresError, Record

from gateway.domain.delivery import Anomaly, DeadLetter, Place
from gateway.domain.event_rows import COLUMNS, EventRow
from gateway.domain.refusals import MOST_NANO, RefusalHour
from gateway.exporter.sink import Batch, Failure, PlacesTaken, SinkUnavailable, Store, Written
from gateway.exporter.sinks.options import PostgresOptions
from gateway.exporter.sinks.postgres_line import NOT_STORABLE, Line
from gateway.exporter.sinks.postgres_schema import STAGING, migrate
from gateway.exporter.sinks.postgres_text import storable

_NAMES: Final = ", ".join(COLUMNS)
_INSERT: Final = f"""
    INSERT INTO events (stored_at_ms, {_NAMES}) SELECT $1::bigint, {_NAMES} FROM staging
    ON CONFLICT DO NOTHING
"""  # noqa: S608 - names of columns
_REFUSED: Final = """
    SELECT new.event_id, new.shard, new.epoch, new.seq, old.event_id IS NULL
    FROM staging AS new LEFT JOIN events AS old ON old.event_id = new.event_id
    WHERE (old.shard, old.epoch, old.seq) IS DISTINCT FROM (new.shard, new.epoch, new.seq)
"""
_MOVE_CURSORS: Final = """
    INSERT INTO cursors AS old SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bigint[])
    ON CONFLICT (shard) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq
    WHERE (excluded.epoch, excluded.seq) > (old.epoch, old.seq)
"""
_MOVE_SINK: Final = """
    INSERT INTO sink_cursors AS old
    SELECT $4, * FROM unnest($1::integer[], $2::bigint[], $3::bigint[])
    ON CONFLICT (sink, shard) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq
    WHERE (excluded.epoch, excluded.seq) > (old.epoch, old.seq)
"""
_SIGNAL: Final = """
    INSERT INTO signals (signal_id, name, customer_id, event_id, occurred_at_ms, balance_nano,
        numbers, waiting_since_ms)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING
"""
_BURY: Final = """
    INSERT INTO dead_letters (shard, epoch, seq, event_id, reason, payload, noticed_at_ms, sink)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING
"""
_NOTE: Final = """
    INSERT INTO anomalies
        (kind, shard, after_epoch, after_seq, found_epoch, found_seq, noticed_at_ms)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING
"""
_MOVE_REFUSALS: Final = "UPDATE refusal_cursor SET entry = $2 WHERE entry = $1"
_ADD_REFUSALS: Final = f"""
    INSERT INTO refusals AS old VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (hour_ms, customer_id, model, reason) DO UPDATE SET
        count = old.count + excluded.count,
        estimated_nano = least({MOST_NANO}, old.estimated_nano::numeric + excluded.estimated_nano)
"""  # noqa: S608 - a constant
_WITH_MORE: Final = """
    SELECT asked.* FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS asked (shard, epoch, seq)
    WHERE EXISTS (SELECT 1 FROM events WHERE events.shard = asked.shard
        AND (events.epoch, events.seq) > (asked.epoch, asked.seq))
    ORDER BY shard
"""
_BEYOND: Final = f"""
    SELECT {_NAMES} FROM events WHERE shard = $1 AND (epoch, seq) > ($2, $3)
    ORDER BY epoch, seq LIMIT $4
"""  # noqa: S608 - names of columns


class PostgresSink(Store):
    """Writes over one connection; questions about the progress of other sinks go over a second one."""

    name: ClassVar[str] = "postgres"

    def __init__(self, options: PostgresOptions) -> None:
        self._options = options
        self._store_id = ""
        self._is_open = False
        self._writing = Line(options, STAGING)
        self._asking = Line(options)

    def __repr__(self) -> str:
        return f"PostgresSink({self._options!r})"

    async def open(self) -> Mapping[int, Place]:
        """Connect, migrate, and read the cursors. Raises SinkUnavailable."""
        await self.close()
        async with self._writing.use() as connection:
            await migrate(connection, self._options.schema)
            self._store_id = await connection.fetchval("SELECT store_id FROM store")
            found = await connection.fetch("SELECT shard, epoch, seq FROM cursors")
        self._is_open = True
        return _cursors(found)

    @property
    def store_id(self) -> str:
        """See `Store`."""
        assert self._store_id, "the store has not been opened"
        return self._store_id

    async def write(self, batch: Batch) -> Written:
        """Write a batch in one transaction, synced."""
        self._require_open()
        rows, taken = batch.rows, list[Failure]()
        async with self._writing.use() as connection:
            while True:
                try:
                    return await _write_rows(connection, rows, batch, taken)
                except PlacesTaken as found:
                    rows = found.others(rows)
                    taken += found.failures

    async def read_beyond(self, places: Mapping[int, Place], limit: int) -> Sequence[EventRow]:
        """See `Store`."""
        self._require_open()
        rows: list[EventRow] = []
        async with self._asking.use() as connection:
            for shard, epoch, seq in await connection.fetch(_WITH_MORE, *_arrays(places)):
                asked = (shard, epoch, seq, limit - len(rows))
                found = await connection.fetch(_BEYOND, *asked)
                rows += [EventRow._make(values) for values in found]
                if len(rows) >= limit:
                    break
        return rows

    async def sink_cursors(self, sink: str) -> Mapping[int, Place]:
        """See `Store`."""
        self._require_open()
        async with self._asking.use() as connection:
            asked = "SELECT shard, epoch, seq FROM sink_cursors WHERE sink = $1"
            return _cursors(await connection.fetch(asked, sink))

    async def note_sink(
        self, sink: str, ends: Mapping[int, Place], dead: Sequence[DeadLetter] = ()
    ) -> None:
        """See `Store`."""
        self._require_open()
        now_ms = time.time_ns() // 1_000_000
        async with self._asking.use() as connection, connection.transaction():
            await connection.execute(_MOVE_SINK, *_arrays(ends), sink)
            await connection.executemany(_BURY, [_dead_row(each, now_ms, sink) for each in dead])

    async def refusal_cursor(self) -> str:
        """See `Store`."""
        self._require_open()
        async with self._asking.use() as connection:
            return str(await connection.fetchval("SELECT entry FROM refusal_cursor"))

    async def add_refusals(self, hours: Sequence[RefusalHour], after: str, cursor: str) -> bool:
        """See `Store`."""
        self._require_open()
        # One at a time: two names may be the same once they are storable. In order of the key, so that
        # two writers lock rows in the same order.
        rows = sorted(storable(astuple(hour)) for hour in hours)
        async with self._asking.use() as connection, connection.transaction():
            said = await connection.execute(_MOVE_REFUSALS, after, cursor)
            if said != "UPDATE 1":
                return False
            await connection.executemany(_ADD_REFUSALS, rows)
        return True

    async def close(self) -> None:
        """Close the connections."""
        await self._writing.close()
        await self._asking.close()
        self._is_open = False

    def _require_open(self) -> None:
        if not self._is_open:
            raise SinkUnavailable("the store is not open")


async def _write_rows(
    connection: "Connection[Record]",
    rows: Sequence[EventRow],
    batch: Batch,
    taken: Sequence[Failure],
) -> Written:
    """Write a batch without rows of shards whose places are taken. Raises PlacesTaken."""
    now_ms, complete = time.time_ns() // 1_000_000, not taken
    try:
        async with connection.transaction(isolation="read_committed"):
            stored, failed = await _insert(connection, rows, now_ms)
            PlacesTaken.check(failed)
            await _keep(connection, batch, now_ms, complete=complete and not failed)
    except NOT_STORABLE:
        async with connection.transaction(isolation="read_committed"):
            stored, failed = await _insert_apart(connection, rows, now_ms)
            PlacesTaken.check(failed)
            await _keep(connection, batch, now_ms, complete=complete and not failed)
    duplicates = len(rows) - stored - len(failed)
    return Written(stored=stored, duplicates=duplicates, failed=[*taken, *failed])


async def _insert(
    connection: "Connection[Record]", rows: Sequence[EventRow], now_ms: int
) -> tuple[int, list[Failure]]:
    """Insert what is new; how many that were, and what has another event's place or id."""
    if not rows:
        return 0, []
    await connection.copy_records_to_table("staging", records=rows, columns=COLUMNS)
    said = await connection.execute(_INSERT, now_ms)
    stored = int(said.rpartition(" ")[2])
    return stored, await _refused(connection, rows) if stored < len(rows) else []


async def _refused(connection: "Connection[Record]", rows: Sequence[EventRow]) -> list[Failure]:
    found = {
        (event_id, shard, epoch, seq): unknown
        for event_id, shard, epoch, seq, unknown in await connection.fetch(_REFUSED)
    }
    refused = []
    for row in rows:
        unknown = found.get(row[:4])
        if unknown:
            refused.append(Failure(row, "another event has its place", place_taken=True))
        elif unknown is not None:
            refused.append(Failure(row, "its id is already stored for another place"))
    return refused


async def _insert_apart(
    connection: "Connection[Record]", rows: Sequence[EventRow], now_ms: int
) -> tuple[int, list[Failure]]:
    """The same for rows one of which cannot be stored: texts are made storable, and halves are tried until
    those that still cannot are found."""
    cleaned = [storable(row) for row in rows]
    try:
        async with connection.transaction():
            stored, failed = await _insert(connection, cleaned, now_ms)
            await connection.execute("DELETE FROM staging")
    except NOT_STORABLE as error:
        if len(rows) == 1:
            said = error.args[0] if isinstance(error, PostgresError) else str(error)
            return 0, [Failure(rows[0], f"cannot be stored: {said}")]
        half = len(rows) // 2
        stored, failed = await _insert_apart(connection, rows[:half], now_ms)
        more, refused = await _insert_apart(connection, rows[half:], now_ms)
        return stored + more, failed + refused
    # What failed is what was given, not its storable form.
    given = {id(clean): row for clean, row in zip(cleaned, rows, strict=True)}
    return stored, [Failure(given[id(f.row)], f.reason, place_taken=f.place_taken) for f in failed]


async def _keep(
    connection: "Connection[Record]", batch: Batch, now_ms: int, *, complete: bool
) -> None:
    """Store what a batch carries besides its rows; its cursors only if it is complete."""
    signals = [(*storable(row), now_ms) for row in batch.signals]
    await connection.executemany(_SIGNAL, signals)
    await connection.executemany(_BURY, [_dead_row(letter, now_ms) for letter in batch.dead])
    await connection.executemany(_NOTE, [_note_row(item, now_ms) for item in batch.anomalies])
    if complete and batch.ends:
        await connection.execute(_MOVE_CURSORS, *_arrays(batch.ends))


def _dead_row(letter: DeadLetter, now_ms: int, sink: str = "") -> tuple[Any, ...]:
    event_id, reason = storable((letter.event_id, letter.reason))
    place = (letter.shard, letter.epoch, letter.seq)
    return (*place, event_id, reason, letter.payload, now_ms, sink)


def _note_row(anomaly: Anomaly, now_ms: int) -> tuple[Any, ...]:
    return (anomaly.kind, anomaly.shard, *anomaly.after, *anomaly.found, now_ms)


def _arrays(places: Mapping[int, Place]) -> tuple[list[int], list[int], list[int]]:
    """Shards in order, so that two writers lock rows in the same order; with epochs and seqs."""
    ordered = sorted(places.items())
    return (
        [shard for shard, _ in ordered],
        [place.epoch for _, place in ordered],
        [place.seq for _, place in ordered],
    )


def _cursors(rows: Iterable[Record]) -> dict[int, Place]:
    return {shard: Place(epoch, seq) for shard, epoch, seq in rows}
