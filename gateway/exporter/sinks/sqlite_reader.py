"""Read the embedded store while the exporter writes it (write-ahead log: neither waits).

Each question is one read transaction, so that its answer belongs to one moment.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import orjson

from gateway.domain.delivery import (
    Anomaly,
    DeadLetter,
    Place,
    ShardContents,
    SignalState,
    Span,
    StoredEvent,
    StoredSignal,
)
from gateway.domain.event_rows import COLUMNS, EventRow
from gateway.domain.events import Event
from gateway.domain.history import PastUse, reserved_at_ms
from gateway.domain.refusals import RefusalHour
from gateway.domain.stores import (
    ChangeFilter,
    ChargeSum,
    ClosedStatement,
    RowFilter,
    StoreMissing,
)
from gateway.domain.usage_sums import UsageQuestion, UsageSum
from gateway.exporter.sinks.options import SqliteOptions
from gateway.exporter.sinks.sqlite_schema import OF_CHANGES, migrate, row_from
from gateway.exporter.sinks.sqlite_usage import usage_by

_COLUMNS: Final = """SELECT kind, event_id, shard, epoch, seq, occurred_at_ms, customer_id,
    amount_nano, balance_nano, estimated_amount_nano, cost_nano, allocations, usage,
    price_version, facts, stored_at_ms, position FROM events """
"""Columns in the order of Event's fields, then StoredEvent's."""

_SPANS: Final = """
    SELECT epoch, min(seq), max(seq), count(*) FROM (
        SELECT epoch, seq FROM events WHERE shard = ?1
        UNION SELECT epoch, seq FROM dead_letters WHERE shard = ?1 AND sink = ''
    ) GROUP BY epoch ORDER BY epoch
"""
_TOTALS: Final = """
    SELECT customer_id, kind, sum(amount_nano) FROM events
    WHERE shard = ? AND (epoch, seq) <= (?, ?) GROUP BY customer_id, kind
"""
_OUTCOME_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz_"
_TWO_ENDS: Final = """
    SELECT one.event_id, other.event_id FROM events AS one JOIN events AS other
    ON other.event_id = rtrim(one.event_id, ?) || ?
    WHERE one.kind = ?
"""
_LATE_WITHOUT_EXPIRY: Final = """
    SELECT late.event_id FROM events AS late WHERE late.kind = 'settle_late' AND NOT EXISTS (
        SELECT 1 FROM events WHERE event_id = rtrim(late.event_id, ?) || 'expired')
"""


_SIGNALS: Final = """
    SELECT signal_id, name, customer_id, event_id, occurred_at_ms, balance_nano, numbers, state,
        attempts, ended_at_ms, reason
    FROM signals WHERE (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR customer_id = ?2)
    ORDER BY position DESC LIMIT ?3
"""


_COUNTS_REFUSALS: Final = "SELECT 1 FROM sqlite_schema WHERE name = 'refusals'"
_REFUSALS: Final = """
    SELECT hour_ms, customer_id, model, reason, count, estimated_nano FROM refusals
    WHERE (?1 IS NULL OR hour_ms >= ?1) AND (?2 IS NULL OR hour_ms < ?2)
        AND (?3 IS NULL OR customer_id = ?3)
    ORDER BY hour_ms, customer_id, model, reason
"""
_ROWS: Final = f"SELECT {', '.join(COLUMNS)} FROM event_rows WHERE "  # noqa: S608 - names of columns
_STATEMENT: Final = "SELECT customer_id, period, document, sha256, closed_at_ms FROM statements "
_KEEP: Final = "INSERT INTO statements VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_CHARGES: Final = """
    SELECT coalesce(sum(amount_nano) FILTER (WHERE kind IN ('settle', 'expire', 'settle_late')), 0),
        max(position), max(occurred_at_ms), (SELECT max(position) FROM events)
    FROM events WHERE customer_id = ?1 AND occurred_at_ms >= ?2 AND position > ?3
"""
"""Evaluated on the index (customer_id, occurred_at_ms, rowid): only rows that are new are fetched."""
_CHARGED: Final = """
    SELECT amount_nano, event_id FROM events WHERE event_id IN (?, ?, ?)
    ORDER BY occurred_at_ms, epoch, seq
"""
_USES: Final = """
    SELECT customer_id, model, moment, price_version, usage,
        amount_nano
        + coalesce((SELECT amount_nano FROM events WHERE kind = 'settle_late'
            AND ended.kind = 'expire' AND event_id = ended.of || 'settled_late'), 0)
        - coalesce((SELECT sum(amount_nano) FROM events WHERE kind = 'adjust'
            AND event_id IN (ended.of || 'repriced', ended.of || 'repriced_late')), 0),
        service_tier
"""
_USED: Final = """
    FROM (
        SELECT kind, customer_id, price_version, amount_nano,
            rtrim(event_id, ?1) AS of,
            coalesce(json_extract(facts, '$.model'), '') AS model,
            coalesce((SELECT json_extract(late.facts, '$.service_tier') FROM events AS late
                WHERE late.kind = 'settle_late' AND events.kind = 'expire'
                AND late.event_id = rtrim(events.event_id, ?1) || 'settled_late'),
                json_extract(facts, '$.service_tier'), 'default') AS service_tier,
            reserved_at_ms(rtrim(rtrim(event_id, ?1), ':'), occurred_at_ms) AS moment,
            coalesce((SELECT late.usage FROM events AS late WHERE late.kind = 'settle_late'
                AND events.kind = 'expire'
                AND late.event_id = rtrim(events.event_id, ?1) || 'settled_late'), usage) AS usage
        FROM events
        WHERE kind IN ('settle', 'expire') AND occurred_at_ms >= ?2
            AND (?4 IS NULL OR customer_id = ?4)
    ) AS ended
    WHERE moment >= ?2 AND moment < ?3
"""
"""Of an expired reservation what its late settle said, once, in the expiry's place. Bound: letters of
an outcome, since, until, customer or none."""


class SqliteStore:
    """Read-only view of an embedded store; a `gateway.domain.stores.EventStore`."""

    def __init__(self, connection: sqlite3.Connection, *, there: bool = True) -> None:
        """there: False for one in memory that stands for a file that is not there yet"""
        self._connection = connection
        self._there = there
        connection.create_function("reserved_at_ms", 2, reserved_at_ms, deterministic=True)

    @classmethod
    def at(cls, path: Path) -> "SqliteStore":
        """Open the store at this path. Raises StoreMissing if there is none yet."""
        try:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
            connection.execute("SELECT 1 FROM events LIMIT 1")
        except sqlite3.DatabaseError as error:
            raise StoreMissing(f"there is no store at {path}: {error}") from error
        return cls(connection)

    @classmethod
    def empty(cls) -> "SqliteStore":
        """Return an empty store, in memory."""
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        migrate(connection)
        return cls(connection, there=False)

    def __enter__(self) -> "SqliteStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; an error of the database is one of a store that cannot be read."""
        self.close()
        if isinstance(error, sqlite3.Error):
            raise StoreMissing(f"the store cannot be read: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def latest(
        self, count: int, *, customer_id: str | None = None, after: int = 0
    ) -> list[StoredEvent]:
        """Return the last `count` events that arrived after position `after`, oldest first."""
        rows = self._connection.execute(
            _COLUMNS + "WHERE position > ?1 AND (?2 IS NULL OR customer_id = ?2)"
            " ORDER BY position DESC LIMIT ?3",
            (after, customer_id, count),
        )
        return [_stored(row) for row in rows][::-1]

    def event(self, event_id: str) -> StoredEvent | None:
        """One event by id."""
        row = self._connection.execute(_COLUMNS + "WHERE event_id = ?", (event_id,)).fetchone()
        return _stored(row) if row else None

    def latest_named(self, prefix: str) -> StoredEvent | None:
        """Return the last event that arrived among those whose id has this prefix."""
        row = self._connection.execute(
            _COLUMNS + "WHERE event_id >= ?1 AND event_id < ?1 || char(1114111)"
            " ORDER BY position DESC LIMIT 1",
            (prefix,),
        ).fetchone()
        return _stored(row) if row else None

    def of_request(self, request_id: str) -> list[StoredEvent]:
        """Return all events of one request, in order of arrival."""
        rows = self._connection.execute(
            _COLUMNS + "WHERE request_id = ? ORDER BY position", (request_id,)
        )
        return [_stored(row) for row in rows]

    def dead_letters(self, limit: int = 100, *, sink: str = "") -> list[DeadLetter]:
        """See `EventStore`."""
        rows = self._connection.execute(
            "SELECT shard, epoch, seq, event_id, reason, payload FROM dead_letters"
            " WHERE sink = ? ORDER BY position DESC LIMIT ?",
            (sink, limit),
        )
        return [DeadLetter(*row) for row in rows]

    def anomalies(self, limit: int = 100) -> list[Anomaly]:
        """The latest anomalies."""
        rows = self._connection.execute(
            "SELECT kind, shard, after_epoch, after_seq, found_epoch, found_seq FROM anomalies"
            " ORDER BY position DESC LIMIT ?",
            (limit,),
        )
        return [Anomaly(kind, s, Place(ae, aq), Place(fe, fq)) for kind, s, ae, aq, fe, fq in rows]

    def signals(
        self,
        limit: int = 100,
        *,
        state: SignalState | None = None,
        customer_id: str | None = None,
    ) -> list[StoredSignal]:
        """Return the latest signals, oldest first, of one state or customer or of all."""
        rows = self._connection.execute(_SIGNALS, (state, customer_id, limit))
        return [_signal(row) for row in rows][::-1]

    def shard_contents(self, shard: int, up_to: Place) -> ShardContents:
        """Return the contents of a shard; the totals exclude entries beyond `up_to`."""
        with self._moment() as connection:
            cursor = connection.execute(
                "SELECT epoch, seq FROM cursors WHERE shard = ?", (shard,)
            ).fetchone()
            totals: dict[str, dict[str, int]] = {}
            for customer_id, kind, total in connection.execute(_TOTALS, (shard, *up_to)):
                totals.setdefault(customer_id, {})[kind] = total
            spans = [Span(*row) for row in connection.execute(_SPANS, (shard,))]
        return ShardContents(Place(*cursor) if cursor else None, totals, spans)

    def at_places(self, shard: int, epoch: int, seqs: Sequence[int]) -> dict[int, tuple[str, int]]:
        """Return seq → (event id, amount in nano-credits) for the places that the store has."""
        rows = self._connection.execute(
            "SELECT seq, event_id, amount_nano FROM events WHERE shard = ? AND epoch = ?"
            " AND seq IN (SELECT value FROM json_each(?))",
            (shard, epoch, orjson.dumps(list(seqs)).decode()),
        )
        return {seq: (event_id, amount) for seq, event_id, amount in rows}

    def cursors(self) -> dict[int, Place]:
        """Return shard → place of the last stored entry."""
        rows = self._connection.execute("SELECT shard, epoch, seq FROM cursors")
        return {shard: Place(epoch, seq) for shard, epoch, seq in rows}

    def events_beyond(self, shard: int, place: Place, limit: int | None = None) -> list[Event]:
        """See `EventStore`."""
        rows = self._connection.execute(
            _COLUMNS + "WHERE shard = ? AND (epoch, seq) > (?, ?) ORDER BY epoch, seq LIMIT ?",
            (shard, *place, -1 if limit is None else limit),
        )
        return [_stored(row).event for row in rows]

    def dead_letters_beyond(self, shard: int, place: Place) -> list[DeadLetter]:
        """Return the dead letters of a shard beyond a place, in order."""
        rows = self._connection.execute(
            "SELECT shard, epoch, seq, event_id, reason, payload FROM dead_letters"
            " WHERE sink = '' AND shard = ? AND (epoch, seq) > (?, ?) ORDER BY epoch, seq",
            (shard, *place),
        )
        return [DeadLetter(*row) for row in rows]

    def known_ids(self, event_ids: Sequence[str]) -> set[str]:
        """Return the ids that the store has, whatever their place."""
        rows = self._connection.execute(
            "SELECT event_id FROM events WHERE event_id IN (SELECT value FROM json_each(?))",
            (orjson.dumps(list(event_ids)).decode(),),
        )
        return {event_id for (event_id,) in rows}

    def contradictions(self) -> list[str]:
        """Describe reservations whose events contradict each other (two terminal outcomes)."""
        found = []
        for kind, other in (("release", "settled"), ("release", "expired"), ("expire", "settled")):
            rows = self._connection.execute(_TWO_ENDS, (_OUTCOME_LETTERS, other, kind))
            found += [f"{one} and {two} both ended it" for one, two in rows]
        rows = self._connection.execute(_LATE_WITHOUT_EXPIRY, (_OUTCOME_LETTERS,))
        return found + [f"{late} has no expiry before it" for (late,) in rows]

    def past_uses(
        self, since_ms: int, until_ms: int, customer_id: str | None = None
    ) -> Iterator[PastUse]:
        """See `UsageHistory`."""
        asked = (_OUTCOME_LETTERS, since_ms, until_ms, customer_id)
        rows = self._connection.execute(_USES + _USED + "ORDER BY 1, 2, service_tier, 3, of", asked)
        for customer, model, moment_ms, version, usage, charged, tier in rows:
            yield PastUse(customer, model, moment_ms, version, orjson.loads(usage), charged, tier)

    def count_past_uses(self, since_ms: int, until_ms: int, customer_id: str | None = None) -> int:
        """See `UsageHistory`."""
        asked = (_OUTCOME_LETTERS, since_ms, until_ms, customer_id)
        ((count,),) = self._connection.execute("SELECT count(*) " + _USED, asked)
        return int(count)

    def rows(self, wanted: RowFilter) -> Iterator[EventRow]:
        """See `EventStore`."""
        # Only the conditions that are asked for, or SQLite would not use the index on customers.
        kinds = None if wanted.kinds is None else orjson.dumps(sorted(wanted.kinds)).decode()
        asked = {
            "occurred_at_ms >= ?": wanted.since_ms,
            "occurred_at_ms < ?": wanted.until_ms,
            "customer_id = ?": wanted.customer_id,
            "kind IN (SELECT value FROM json_each(?))": kinds,
        }
        given = {condition: value for condition, value in asked.items() if value is not None}
        conditions = " AND ".join(given) or "TRUE"
        order = " ORDER BY occurred_at_ms, shard, epoch, seq"
        for values in self._connection.execute(_ROWS + conditions + order, [*given.values()]):
            yield row_from(values)

    def changes(self, wanted: ChangeFilter) -> list[EventRow]:
        """See `EventStore`."""
        action = "json_extract(facts, '$.action')"
        asked: dict[str, Any] = {
            "json_extract(facts, '$.actor') IS NOT NULL": (),
            "occurred_at_ms >= ?": wanted.since_ms,
            "occurred_at_ms < ?": wanted.until_ms,
            "customer_id = ?": wanted.customer_id,
            "json_extract(facts, '$.actor') = ?": wanted.actor,
            f"substr({action} || '.', 1, length(?) + 1) = ? || '.'": (
                None if wanted.action is None else (wanted.action, wanted.action)
            ),
            "(occurred_at_ms, shard, epoch, seq) < (?, ?, ?, ?)": wanted.before,
        }
        given = {condition: value for condition, value in asked.items() if value is not None}
        values = [v for value in given.values() for v in _listed(value)]
        conditions = " AND ".join([OF_CHANGES, *given])
        order = " ORDER BY occurred_at_ms DESC, shard DESC, epoch DESC, seq DESC LIMIT ?"
        found = self._connection.execute(_ROWS + conditions + order, [*values, wanted.limit])
        return [row_from(each) for each in found]

    def charges_since(self, customer_id: str, since_ms: int, position: int) -> ChargeSum:
        """See `EventStore`."""
        asked = (customer_id, since_ms, position)
        row = self._connection.execute(_CHARGES, asked).fetchone()
        amount_nano, newest, newest_ms, last = row
        return ChargeSum(amount_nano, newest or 0, newest_ms or 0, last or 0)

    def charge_of(self, reservation_id: str) -> tuple[int, str] | None:
        """See `EventStore`."""
        ids = [f"{reservation_id}:{end}" for end in ("settled", "expired", "settled_late")]
        rows = self._connection.execute(_CHARGED, ids).fetchall()
        return (sum(nano for nano, _ in rows), rows[-1][1]) if rows else None

    def usage_by(self, question: UsageQuestion) -> list[UsageSum]:
        """See `EventStore`."""
        return usage_by(self._connection.execute, question)

    def sink_cursors(self, sink: str) -> dict[int, Place]:
        """See `EventStore`."""
        rows = self._connection.execute(
            "SELECT shard, epoch, seq FROM sink_cursors WHERE sink = ?", (sink,)
        )
        return {shard: Place(epoch, seq) for shard, epoch, seq in rows}

    def store_id(self) -> str | None:
        """See `EventStore`."""
        if not self._there:
            return None
        ((store_id,),) = self._connection.execute("SELECT store_id FROM store")
        return str(store_id)

    def dead_letter_counts(self) -> dict[str, int]:
        """See `EventStore`."""
        rows = self._connection.execute("SELECT sink, count(*) FROM dead_letters GROUP BY sink")
        return dict(rows.fetchall())

    def refusals(
        self, since_ms: int | None, until_ms: int | None, customer_id: str | None = None
    ) -> Iterator[RefusalHour]:
        """See `EventStore`. Nothing has been counted before an exporter of this release opened it."""
        if not self._connection.execute(_COUNTS_REFUSALS).fetchone():
            return
        for values in self._connection.execute(_REFUSALS, (since_ms, until_ms, customer_id)):
            yield RefusalHour(*values)

    def closed_statement(self, customer_id: str, period: str) -> ClosedStatement | None:
        """See `EventStore`."""
        return self._statement("WHERE customer_id = ? AND period = ?", (customer_id, period))

    def last_closed_statement(
        self, customer_id: str, before: str | None = None
    ) -> ClosedStatement | None:
        """See `EventStore`."""
        chosen = (
            "WHERE customer_id = ?1 AND (?2 IS NULL OR period < ?2) ORDER BY period DESC LIMIT 1"
        )
        return self._statement(chosen, (customer_id, before))

    def _statement(self, chosen: str, asked: tuple[str | None, ...]) -> ClosedStatement | None:
        known = self._connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'statements'"
        ).fetchone()
        if known is None:  # a store of the release before, which its exporter has not upgraded yet
            return None
        row = self._connection.execute(_STATEMENT + chosen, asked).fetchone()
        return ClosedStatement(*row) if row else None

    @contextmanager
    def _moment(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN")
        try:
            yield self._connection
        finally:
            self._connection.execute("COMMIT")


def _stored(row: tuple[Any, ...]) -> StoredEvent:
    *plain, allocations, usage, price_version, facts, stored_at_ms, position = row
    fields = (
        *plain,
        tuple((grant, nano) for grant, nano in orjson.loads(allocations)),
        orjson.loads(usage),
        price_version,
        orjson.loads(facts),
    )
    return StoredEvent(Event(*fields), stored_at_ms, position)


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,)


def _signal(row: tuple[Any, ...]) -> StoredSignal:
    fields = (*row[:6], orjson.loads(row[6]), *row[7:])
    return StoredSignal(*fields)


class SqliteAccess:
    """`gateway.domain.stores.StoreAccess` to the embedded store in one file."""

    def __init__(self, options: SqliteOptions) -> None:
        self.path = options.path

    @property
    def shown(self) -> str:
        """See `StoreAccess`."""
        return str(self.path)

    def open(self) -> SqliteStore:
        """See `StoreAccess`."""
        return SqliteStore.at(self.path)

    def open_or_empty(self) -> SqliteStore:
        """See `StoreAccess`."""
        if not self.path.exists():  # asked first: it may be made while this opens it
            return SqliteStore.empty()
        try:
            return self.open()
        except StoreMissing as error:
            if "no such table" in str(error):  # it is being made
                return SqliteStore.empty()
            raise

    def cursors(self) -> dict[int, Place]:
        """See `StoreAccess`. A file is opened in microseconds: nothing is kept."""
        with self.open_or_empty() as store:
            return store.cursors()

    def keep_statement(self, statement: ClosedStatement) -> ClosedStatement:
        """See `StoreAccess`. A second writer is as safe as the first: SQLite lets one in at a time."""
        if not self.path.exists():
            raise StoreMissing(f"there is no store at {self.path}")
        try:
            with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
                connection.execute("PRAGMA busy_timeout = 5000")
                connection.execute("PRAGMA synchronous = FULL")
                migrate(connection)
                connection.execute(_KEEP, astuple(statement))
        except sqlite3.Error as error:
            raise StoreMissing(f"the store at {self.path} cannot be written: {error}") from error
        with self.open() as store:
            kept = store.closed_statement(statement.customer_id, statement.period)
        assert kept is not None, "it was kept just now"
        return kept
