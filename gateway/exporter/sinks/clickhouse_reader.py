"""Read ClickHouse as a store (`gateway.domain.stores`).

Each question is a few statements, and there is no transaction around them: what depends on the moment is bound
to the shard's cursor, which the sink moves after the rows.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
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
from gateway.domain.event_rows import EventRow, event_of
from gateway.domain.events import Event
from gateway.domain.stores import (
    ChangeFilter,
    ChargeSum,
    ClosedStatement,
    EventStore,
    RowFilter,
    StoreMissing,
)
from gateway.exporter.sinks import clickhouse_queries as ask
from gateway.exporter.sinks.clickhouse_history import ClickHouseHistory
from gateway.exporter.sinks.clickhouse_protocol import literal, literals, row_from
from gateway.exporter.sinks.clickhouse_sync import ClickHouseReading
from gateway.exporter.sinks.options import ClickHouseOptions
from gateway.exporter.sinks.sqlite_reader import SqliteStore

_RECENT_US: Final = 3600 * 10**6
"""Where the latest events are looked for first: without that every look reads a column of all events."""


class ClickHouseStore(ClickHouseHistory):
    """Read access to one database; a `gateway.domain.stores.EventStore`."""

    def __enter__(self) -> "ClickHouseStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to release: the connections belong to the access, which keeps them."""

    def latest(
        self, count: int, *, customer_id: str | None = None, after: int = 0
    ) -> list[StoredEvent]:
        """Return the last `count` events that arrived after position `after`, oldest first."""
        whose = "" if customer_id is None else f" AND customer_id = {literal(customer_id)}"
        found: list[dict[str, Any]] = []
        for floor in (after,) if after else (self._recent(), 0):
            condition = f"position > {floor}{whose}"
            found = self._rows(ask.events(condition, "position DESC", count))
            if len(found) >= count:
                break
        return [_stored(line) for line in found][::-1]

    def event(self, event_id: str) -> StoredEvent | None:
        """One event by id."""
        return self._last(f"event_id = {literal(event_id)}")

    def latest_named(self, prefix: str) -> StoredEvent | None:
        """Return the last event that arrived among those whose id has this prefix."""
        return self._last(f"startsWith(event_id, {literal(prefix)})")

    def _last(self, condition: str) -> StoredEvent | None:
        found = self._rows(ask.events(condition, "position DESC", 1))
        return _stored(found[0]) if found else None

    def of_request(self, request_id: str) -> list[StoredEvent]:
        """Return all events of one request, in order of arrival."""
        condition = f"request_id = {literal(request_id)}"
        return [_stored(line) for line in self._rows(ask.events(condition, "position"))]

    def store_id(self) -> str | None:
        """The store's permanent id."""
        (line,) = self._rows("SELECT store_id FROM store")
        return str(line["store_id"])

    def dead_letters(self, limit: int = 100, *, sink: str = "") -> list[DeadLetter]:
        """The latest dead letters: of the required store itself, or of an optional sink."""
        return self._letters(f"sink = {literal(sink)}", "position DESC", limit)

    def dead_letter_counts(self) -> dict[str, int]:
        """The number of dead letters by sink; the required store's own under ""."""
        return {line["sink"]: line["number"] for line in self._rows(ask.DEAD_LETTER_COUNTS)}

    def dead_letters_beyond(self, shard: int, place: Place) -> list[DeadLetter]:
        """Return the dead letters of a shard beyond a place, in order."""
        return self._letters(f"sink = '' AND {ask.beyond(shard, place)}", "epoch, seq", None)

    def _letters(self, condition: str, order: str, limit: int | None) -> list[DeadLetter]:
        return [
            DeadLetter(
                line["shard"],
                line["epoch"],
                line["seq"],
                line["event_id"] or None,
                line["reason"],
                bytes.fromhex(line["payload_hex"]),
            )
            for line in self._rows(ask.dead_letters(condition, order, limit))
        ]

    def anomalies(self, limit: int = 100) -> list[Anomaly]:
        """The latest anomalies."""
        return [
            Anomaly(
                line["kind"],
                line["shard"],
                Place(line["after_epoch"], line["after_seq"]),
                Place(line["found_epoch"], line["found_seq"]),
            )
            for line in self._rows(ask.anomalies(limit))
        ]

    def signals(
        self,
        limit: int = 100,
        *,
        state: SignalState | None = None,
        customer_id: str | None = None,
    ) -> list[StoredSignal]:
        """Return the latest signals, oldest first. Nothing delivers them from here: they all wait."""
        if state not in (None, "waiting"):
            return []
        found = []
        for line in self._rows(ask.signals(limit, customer_id)):
            numbers = orjson.loads(line.pop("numbers"))
            waiting: dict[str, Any] = {"state": "waiting", "attempts": 0, "ended_at_ms": None}
            found.append(StoredSignal(**line, numbers=numbers, **waiting, reason=None))
        return found[::-1]

    def shard_contents(self, shard: int, up_to: Place) -> ShardContents:
        """Return the contents of a shard; the totals exclude entries beyond `up_to`.

        Entries beyond the cursor, which the sink is writing, are left out: they are still in the outbox.
        """
        cursor = self._cursors(ask.CURSORS, f"shard = {shard}").get(shard)
        if cursor is None:
            return ShardContents(None, {}, [])
        totals: dict[str, dict[str, int]] = {}
        counted = ask.up_to(shard, min(up_to, cursor))
        for line in self._rows(ask.totals(counted), long=True):
            totals.setdefault(line["customer_id"], {})[line["kind"]] = line["total"]
        there = ask.up_to(shard, cursor)
        spans = {
            line["epoch"]: Span(line["epoch"], line["first_seq"], line["last_seq"], line["number"])
            for line in self._rows(ask.spans(there), long=True)
        }
        for line in self._rows(ask.dead_places(there)):
            epoch, seq = line["epoch"], line["seq"]
            span = spans.get(epoch, Span(epoch, seq, seq, 0))
            first, last = min(span.first_seq, seq), max(span.last_seq, seq)
            spans[epoch] = Span(epoch, first, last, span.count + 1)
        return ShardContents(cursor, totals, [spans[epoch] for epoch in sorted(spans)])

    def at_places(self, shard: int, epoch: int, seqs: Sequence[int]) -> dict[int, tuple[str, int]]:
        """Return seq → (event id, amount in nano-credits) for the places that the store has."""
        found = {}
        for part in ask.parts(seqs):
            at = f"shard = {shard} AND epoch = {epoch} AND seq IN {literals(part)}"
            for line in self._rows(ask.amounts(at)):
                found[line["seq"]] = (line["event_id"], line["amount_nano"])
        return found

    def cursors(self) -> dict[int, Place]:
        """Return shard → place of the last stored entry."""
        return self._cursors(ask.CURSORS)

    def sink_cursors(self, sink: str) -> dict[int, Place]:
        """Return how far an optional sink has been fed, by shard."""
        return self._cursors(ask.SINK_CURSORS, f"sink = {literal(sink)}")

    def _cursors(self, question: str, condition: str = "1") -> dict[int, Place]:
        return ask.furthest(self._rows(question.format(condition)))

    def events_beyond(self, shard: int, place: Place, limit: int | None = None) -> list[Event]:
        """See `EventStore`."""
        found = self._rows(ask.events(ask.beyond(shard, place), "epoch, seq", limit), long=True)
        return [event_of(row_from(line)) for line in found]

    def known_ids(self, event_ids: Sequence[str]) -> set[str]:
        """Return the ids that the store has, whatever their place."""
        known: set[str] = set()
        for part in ask.parts(event_ids):
            found = self._rows(ask.amounts(f"event_id IN {literals(part)}"), long=True)
            known.update(line["event_id"] for line in found)
        return known

    def rows(self, wanted: RowFilter) -> Iterator[EventRow]:
        """See `EventStore`."""
        return map(row_from, self._reading.stream(ask.rows(wanted)))

    def changes(self, wanted: ChangeFilter) -> list[EventRow]:
        """See `EventStore`."""
        return [row_from(line) for line in self._rows(ask.changes(wanted, self._reading.server))]

    def charges_since(self, customer_id: str, since_ms: int, position: int) -> ChargeSum:
        """See `EventStore`."""
        (line,) = self._rows(ask.charges_since(customer_id, since_ms, position))
        floor = position or self._recent()
        newest = self._newest("events FINAL", f"position >= {floor}") or self._newest(
            "events FINAL"
        )
        return ChargeSum(line["amount"], line["newest"], line["newest_ms"], newest)

    def charge_of(self, reservation_id: str) -> tuple[int, str] | None:
        """See `EventStore`."""
        ids = [f"{reservation_id}:{end}" for end in ("settled", "expired", "settled_late")]
        condition = f"event_id IN {literals(ids)}"
        found = self._rows(ask.amounts(condition, "occurred_at_ms, epoch, seq"))
        if not found:
            return None
        return sum(line["amount_nano"] for line in found), found[-1]["event_id"]

    def _recent(self) -> int:
        """A position an hour before the newest cursor."""
        return max(0, self._newest("cursors") - _RECENT_US)

    def _newest(self, table: str, condition: str = "1") -> int:
        (line,) = self._rows(ask.newest(table, condition))
        return int(line["newest"])


def _stored(line: dict[str, Any]) -> StoredEvent:
    return StoredEvent(event_of(row_from(line)), line["stored_at_ms"], line["position"])


class ClickHouseAccess:
    """`gateway.domain.stores.StoreAccess` to one database. Keeps its connections."""

    def __init__(self, options: ClickHouseOptions) -> None:
        self._options = options
        self._reading: ClickHouseReading | None = None
        self._lock = threading.Lock()

    @property
    def shown(self) -> str:
        """See `StoreAccess`."""
        return f"{self._options.url}/{self._options.database}"

    def open(self) -> EventStore:
        """See `StoreAccess`."""
        store = self._store()
        if store is None:
            raise StoreMissing(f"there is no store at {self.shown}")
        return store

    def open_or_empty(self) -> EventStore:
        """See `StoreAccess`."""
        return self._store() or SqliteStore.empty()

    def cursors(self) -> dict[int, Place]:
        """See `StoreAccess`."""
        store = self._store()
        return store.cursors() if store else {}

    def keep_statement(self, statement: ClosedStatement) -> ClosedStatement:
        """See `StoreAccess`. Of two that are kept at once the one that was closed first stays."""
        store = self._store()
        if store is None or self._reading is None:
            raise StoreMissing(f"there is no store at {self.shown}")
        earlier = store.closed_statement(statement.customer_id, statement.period)
        if earlier is not None:
            return earlier
        self._reading.insert("statements", asdict(statement))
        kept = store.closed_statement(statement.customer_id, statement.period)
        assert kept is not None, "it was kept just now"
        return kept

    def _store(self) -> ClickHouseStore | None:
        """The store; None where the tables have not been created."""
        with self._lock:
            if self._reading is None:
                self._reading = ClickHouseReading(self._options)
        if not self._reading.rows(ask.migrations_of(self._options.database), outside=True):
            return None
        return ClickHouseStore(self._reading)
