"""ClickHouse as a store, over HTTP.

There are no transactions. The rows of a batch are written first, its cursors last, so that a kill anywhere
between them repeats rows and loses none. Each table is a ReplacingMergeTree ordered by what identifies a row,
the events by their place: a row that was written twice is one to whoever reads with FINAL.

What is there already is asked for only where a batch may overlap it: of a shard whose first rows these are since
`open`, or since a failure, or that do not follow the last ones. All else is new by the numbering.
"""

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from operator import attrgetter
from typing import ClassVar, Final

from gateway.domain.delivery import DeadLetter, Place
from gateway.domain.event_rows import EventRow
from gateway.domain.refusals import NO_ENTRY, RefusalHour
from gateway.exporter.sink import Batch, Failure, PlacesTaken, SinkUnavailable, Store, Written
from gateway.exporter.sinks.clickhouse_client import ClickHouseClient, Unreachable
from gateway.exporter.sinks.clickhouse_encoding import (
    INSERTED,
    anomaly_values,
    cursor_values,
    encode,
    letter_values,
    page_values,
    why_not,
)
from gateway.exporter.sinks.clickhouse_protocol import Refused, literal, row_from
from gateway.exporter.sinks.clickhouse_queries import (
    CURSORS,
    REFUSAL_CURSOR,
    SINK_CURSORS,
    between,
    beyond,
    databases,
    furthest,
    migrations_of,
    newest,
    refusals_after,
    rows_beyond,
    stored_at,
)
from gateway.exporter.sinks.clickhouse_schema import missing
from gateway.exporter.sinks.options import ClickHouseOptions

_SHARDS_PER_QUERY: Final = 500
"""A statement has at most 256 KiB."""
_INTO: Final = f"events ({', '.join(INSERTED)}) FORMAT "
_shard = attrgetter("shard")
_Values = Sequence[Mapping[str, object]]


class ClickHouseSink(Store):
    """Writes to one database. Several exporters may write to it at once, each its own shards."""

    name: ClassVar[str] = "clickhouse"

    def __init__(self, options: ClickHouseOptions) -> None:
        self._options = options
        self._client: ClickHouseClient | None = None
        self._store_id = ""
        self._written: dict[int, Place] = {}
        """Shard → the last place that was written since `open` or a failure."""
        self._position = 0
        """Of the newest row that is known."""

    def __repr__(self) -> str:
        return f"ClickHouseSink({self._options!r}, {'open' if self._client else 'closed'})"

    async def open(self) -> Mapping[int, Place]:
        """Connect, create what is missing, and read the cursors."""
        await self.close()
        self._client = ClickHouseClient(self._options)
        try:
            async with self._connected() as client:
                await self._prepare(client)
                (line,) = await client.rows("SELECT store_id FROM store")
                self._store_id = line["store_id"]
                return furthest(await client.rows(CURSORS.format("1")))
        except BaseException:
            await self.close()
            raise

    async def write(self, batch: Batch) -> Written:
        """Write a batch: what is new of its rows, then the rest, then the cursors."""
        async with self._connected() as client:
            fresh, failed = await self._sift(client, batch.rows)
            rows = PlacesTaken(failed).others(batch.rows)
            duplicates = len(rows) - len(fresh)
            unsound = await self._insert(client, fresh)
            failed += unsound
            for row in dict(zip(map(_shard, rows), rows, strict=True)).values():
                self._written[row.shard] = row.place
            await self._add(client, "signals", [row._asdict() for row in batch.signals])
            await self._add(client, "dead_letters", [letter_values(each) for each in batch.dead])
            await self._add(client, "anomalies", [anomaly_values(each) for each in batch.anomalies])
            if not failed:
                position = {"position": self._position}
                cursors = [{**cursor, **position} for cursor in cursor_values(batch.ends)]
                await client.insert("cursors", cursors)
        return Written(len(fresh) - len(unsound), duplicates, failed)

    @property
    def store_id(self) -> str:
        """See `Store`."""
        assert self._store_id, "the store has not been opened"
        return self._store_id

    async def read_beyond(self, places: Mapping[int, Place], limit: int) -> Sequence[EventRow]:
        """See `Store`."""
        async with self._connected() as client:
            # Numbers have no gaps, so that what is wanted is near; only beyond missing ones it is not.
            near = await _beyond(client, places, limit, near=True)
            return near or await _beyond(client, places, limit, near=False)

    async def sink_cursors(self, sink: str) -> Mapping[int, Place]:
        """See `Store`."""
        async with self._connected() as client:
            question = SINK_CURSORS.format(f"sink = {literal(sink)}")
            return furthest(await client.rows(question))

    async def note_sink(
        self, sink: str, ends: Mapping[int, Place], dead: Sequence[DeadLetter] = ()
    ) -> None:
        """See `Store`. The dead letters first, then the cursors."""
        async with self._connected() as client:
            await self._add(client, "dead_letters", [letter_values(each, sink) for each in dead])
            await client.insert("sink_cursors", [{"sink": sink, **c} for c in cursor_values(ends)])

    async def refusal_cursor(self) -> str:
        """The last entry of the stream of refusals that has been counted. Raises SinkUnavailable."""
        async with self._connected() as client:
            found = await client.rows(REFUSAL_CURSOR)
            return str(found[0]["entry"]) if found else NO_ENTRY

    async def add_refusals(self, hours: Sequence[RefusalHour], after: str, cursor: str) -> bool:
        """Add refusals, and move the cursor from `after` to `cursor`: both are one row. False if the cursor
        is not at `after`, or another exporter has moved it first. Raises SinkUnavailable."""
        if await self.refusal_cursor() != after:
            return False
        position = self._take_positions(1)
        page = {**page_values(hours), "after": after, "entry": cursor, "position": position}
        async with self._connected() as client:
            await client.insert("refusal_pages", [page])
            return await client.rows(refusals_after(after)) == [{"position": position}]

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        self._written.clear()
        if client is not None:
            await client.close()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[ClickHouseClient]:
        where = f"clickhouse at {self._options.url}"
        if self._client is None:
            raise SinkUnavailable(f"{where} is not open")
        try:
            yield self._client
        except BaseException as error:
            self._written.clear()  # what was being written may be there or not
            if isinstance(error, Refused | Unreachable):
                raise SinkUnavailable(f"{where}: {error}") from error
            raise

    async def _prepare(self, client: ClickHouseClient) -> None:
        """Create the database and the tables where they are missing. Raises StoreTooNew."""
        server, name = await client.connect(), self._options.database
        if not await client.rows(databases(name), outside=True):
            await client.execute(f"CREATE DATABASE IF NOT EXISTS {name}", outside=True)
        version = 0
        if await client.rows(migrations_of(name), outside=True):
            (line,) = await client.rows("SELECT max(version) AS version FROM migrations")
            version = line["version"]
        for statement in missing(version, server):
            await client.execute(statement)

    # Rows

    async def _sift(
        self, client: ClickHouseClient, rows: Sequence[EventRow]
    ) -> tuple[list[EventRow], list[Failure]]:
        """Return the rows that are not there yet, and those at whose place there is another."""
        behind = rows[::-1]
        first = dict(zip(map(_shard, behind), behind, strict=True))
        doubtful = {
            shard
            for shard, row in first.items()
            if shard not in self._written or row.place <= self._written[shard]
        }
        if not doubtful:
            return list(rows), []
        there = await self._at_places_of(client, [row for row in rows if row.shard in doubtful])
        fresh, failed = [], []
        for row in rows:
            found = there.get((row.shard, row.epoch, row.seq))
            if found is None:
                fresh.append(row)
                there[row.shard, row.epoch, row.seq] = row.event_id
            elif found != row.event_id:
                failed.append(Failure(row, "another event has its place", place_taken=True))
        return PlacesTaken(failed).others(fresh), failed

    async def _at_places_of(
        self, client: ClickHouseClient, rows: Sequence[EventRow]
    ) -> dict[tuple[int, int, int], str]:
        """Return place → event id of what is stored between the first and the last of these rows, in each
        shard. New rows will arrive after all that is found, whatever the clock of who wrote it."""
        (line,) = await client.rows(newest("cursors"))
        self._position = max(self._position, line["newest"])
        places: dict[int, list[Place]] = {}
        for row in rows:
            places.setdefault(row.shard, []).append(row.place)
        found = {}
        for part in _parts([between(s, min(p), max(p)) for s, p in places.items()]):
            for line in await client.rows(stored_at(part)):
                found[line["shard"], line["epoch"], line["seq"]] = line["event_id"]
                self._position = max(self._position, line["position"])
        return found

    async def _insert(self, client: ClickHouseClient, rows: list[EventRow]) -> list[Failure]:
        """Insert rows that are not there; return those that cannot be stored."""
        if not rows:
            return []
        columns = client.server.modern
        try:
            body, failed = self._encoded(rows, columns), []
        except (ValueError, TypeError):
            reasons = [(row, why_not(row)) for row in rows]
            failed = [Failure(row, reason) for row, reason in reasons if reason is not None]
            rows = [row for row, reason in reasons if reason is None]
            if not rows:
                return failed
            body = self._encoded(rows, columns)
        form = "JSONColumns" if columns else "JSONEachRow"
        await client.insert_body(_INTO + form, body, _token(rows))
        return failed

    def _encoded(self, rows: Sequence[EventRow], columns: bool) -> bytes:
        position = self._take_positions(len(rows))
        return encode(rows, time.time_ns() // 1_000_000, position, columns=columns)

    async def _add(self, client: ClickHouseClient, table: str, values: _Values) -> None:
        """Insert a few rows in order of arrival."""
        position = self._take_positions(len(values))
        numbered = [{**value, "position": position + i} for i, value in enumerate(values)]
        await client.insert(table, numbered)

    def _take_positions(self, count: int) -> int:
        """The first of so many positions: microseconds of the clock, and beyond all that are known."""
        first = max(self._position + 1, time.time_ns() // 1000)
        if count:
            self._position = first + count - 1
        return first


def _token(rows: Sequence[EventRow]) -> str:
    """Of this insert and its repeats: of these events at these places."""
    names = "\n".join([row.event_id for row in rows])
    digest = blake2b(names.encode(), digest_size=16).hexdigest()
    ends = (f"{row.shard}-{row.epoch}-{row.seq}" for row in (rows[0], rows[-1]))
    return "_".join((*ends, digest))


async def _beyond(
    client: ClickHouseClient, places: Mapping[int, Place], limit: int, *, near: bool
) -> list[EventRow]:
    rows: list[EventRow] = []
    far = limit if near else None
    for part in _parts([beyond(shard, place, far) for shard, place in sorted(places.items())]):
        if len(rows) < limit:
            found = await client.rows(rows_beyond(part, limit - len(rows)), spills=True)
            rows += map(row_from, found)
    return rows


def _parts(conditions: Sequence[str]) -> Iterator[str]:
    """Conditions joined by OR, not too many at once."""
    for start in range(0, len(conditions), _SHARDS_PER_QUERY):
        yield " OR ".join(conditions[start : start + _SHARDS_PER_QUERY])
