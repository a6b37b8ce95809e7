"""Read the store in Postgres while exporters write it: neither waits for the other.

Each question is one statement, or one transaction on one snapshot: its answer belongs to one moment. Answers of
any length come in pages over a separate connection.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

import psycopg

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
from gateway.domain.event_rows import EventRow
from gateway.domain.events import Event
from gateway.domain.history import PastUse
from gateway.domain.refusals import RefusalHour
from gateway.domain.stores import (
    ChangeFilter,
    ChangePlace,
    ChargeSum,
    ClosedStatement,
    RowFilter,
    StoreMissing,
)
from gateway.domain.usage_sums import UsageQuestion, UsageSum
from gateway.exporter.sinks import postgres_queries as sql
from gateway.exporter.sinks.postgres_pool import Connection, PostgresPool, bounded, explained
from gateway.exporter.sinks.postgres_usage import usage_by

_LAST_CHARACTER: Final = "\U0010ffff"
_BEHIND_ALL: Final = ChangePlace((1 << 63) - 1, 0, 0, 0)


class PostgresStore:
    """Read-only view of a store; a `gateway.domain.stores.EventStore`.

    Every question raises StoreMissing when the database does not answer.
    """

    def __init__(self, pool: PostgresPool, connection: Connection) -> None:
        """connection: taken from the pool, and given back when this is closed"""
        self._pool = pool
        self._connection: Connection | None = connection

    def __enter__(self) -> "PostgresStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)

    def latest(
        self, count: int, *, customer_id: str | None = None, after: int = 0
    ) -> list[StoredEvent]:
        """See `EventStore`."""
        asked = {"count": count, "customer": customer_id, "after": after}
        return [_stored(row) for row in self._all(sql.LATEST, asked)][::-1]

    def event(self, event_id: str) -> StoredEvent | None:
        """One event by id."""
        return next((_stored(row) for row in self._all(sql.BY_ID, (event_id,))), None)

    def latest_named(self, prefix: str) -> StoredEvent | None:
        """Return the last event that arrived among those whose id has this prefix."""
        asked = {"prefix": prefix, "end": prefix + _LAST_CHARACTER}
        return next((_stored(row) for row in self._all(sql.BY_PREFIX, asked)), None)

    def of_request(self, request_id: str) -> list[StoredEvent]:
        """Return all events of one request, in order of arrival."""
        return [_stored(row) for row in self._all(sql.BY_REQUEST, (request_id,))]

    def dead_letters(self, limit: int = 100, *, sink: str = "") -> list[DeadLetter]:
        """See `EventStore`."""
        return [DeadLetter(*row) for row in self._all(sql.DEAD_LETTERS, (sink, limit))]

    def dead_letter_counts(self) -> dict[str, int]:
        """See `EventStore`."""
        return dict(self._all(sql.DEAD_LETTER_COUNTS))

    def store_id(self) -> str:
        """See `EventStore`."""
        ((store_id,),) = self._all("SELECT store_id FROM store")
        return str(store_id)

    def closed_statement(self, customer_id: str, period: str) -> ClosedStatement | None:
        """See `EventStore`."""
        found = self._all(sql.STATEMENT, (customer_id, period))
        return ClosedStatement(*found[0]) if found else None

    def last_closed_statement(
        self, customer_id: str, before: str | None = None
    ) -> ClosedStatement | None:
        """See `EventStore`."""
        found = self._all(sql.LAST_STATEMENT, {"customer": customer_id, "before": before})
        return ClosedStatement(*found[0]) if found else None

    def refusals(
        self, since_ms: int | None, until_ms: int | None, customer_id: str | None = None
    ) -> Iterator[RefusalHour]:
        """See `EventStore`."""
        asked = {"since": since_ms, "until": until_ms, "customer": customer_id}
        return (RefusalHour(*row) for row in self._pages(sql.REFUSALS, asked))

    def anomalies(self, limit: int = 100) -> list[Anomaly]:
        """The latest anomalies."""
        rows = self._all(sql.ANOMALIES, (limit,))
        return [Anomaly(kind, s, Place(ae, aq), Place(fe, fq)) for kind, s, ae, aq, fe, fq in rows]

    def signals(
        self,
        limit: int = 100,
        *,
        state: SignalState | None = None,
        customer_id: str | None = None,
    ) -> list[StoredSignal]:
        """Return the latest signals, oldest first, of one state or customer or of all."""
        asked = {"state": state, "customer": customer_id, "limit": limit}
        return [StoredSignal(*row) for row in self._all(sql.SIGNALS, asked)][::-1]

    def shard_contents(self, shard: int, up_to: Place) -> ShardContents:
        """Return the contents of a shard; the totals exclude entries beyond `up_to`."""
        totals: dict[str, dict[str, int]] = {}
        self._all("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            cursor = self._all(sql.CURSOR, (shard,))
            for customer_id, kind, total in self._all(sql.TOTALS, (shard, *up_to)):
                totals.setdefault(customer_id, {})[kind] = total
            spans = [Span(*row) for row in self._all(sql.SPANS, {"shard": shard})]
        finally:
            self._all("COMMIT")
        return ShardContents(Place(*cursor[0]) if cursor else None, totals, spans)

    def at_places(self, shard: int, epoch: int, seqs: Sequence[int]) -> dict[int, tuple[str, int]]:
        """Return seq → (event id, amount in nano-credits) for the places that the store has."""
        rows = self._all(sql.AT_PLACES, (shard, epoch, list(seqs)))
        return {seq: (event_id, amount) for seq, event_id, amount in rows}

    def cursors(self) -> dict[int, Place]:
        """Return shard → place of the last stored entry."""
        return _places(self._all(sql.CURSORS))

    def events_beyond(self, shard: int, place: Place, limit: int | None = None) -> list[Event]:
        """See `EventStore`."""
        return [_stored(row).event for row in self._all(sql.BEYOND, (shard, *place, limit))]

    def dead_letters_beyond(self, shard: int, place: Place) -> list[DeadLetter]:
        """Return the dead letters of a shard beyond a place, in order."""
        rows = self._all(sql.DEAD_LETTERS_BEYOND, (shard, *place))
        return [DeadLetter(*row) for row in rows]

    def known_ids(self, event_ids: Sequence[str]) -> set[str]:
        """Return the ids that the store has, whatever their place."""
        return {event_id for (event_id,) in self._all(sql.KNOWN, (list(event_ids),))}

    def contradictions(self) -> list[str]:
        """Describe reservations whose events contradict each other (two terminal outcomes)."""
        found = []
        for kind, other in (("release", "settled"), ("release", "expired"), ("expire", "settled")):
            rows = self._all(sql.TWO_ENDS, (other, kind))
            found += [f"{one} and {two} both ended it" for one, two in rows]
        rows = self._all(sql.LATE_WITHOUT_EXPIRY)
        return found + [f"{late} has no expiry before it" for (late,) in rows]

    def past_uses(
        self, since_ms: int, until_ms: int, customer_id: str | None = None
    ) -> Iterator[PastUse]:
        """See `UsageHistory`."""
        asked = {"since": since_ms, "until": until_ms, "customer": customer_id}
        return (PastUse(*row) for row in self._pages(sql.USES + sql.USED + sql.IN_ORDER, asked))

    def count_past_uses(self, since_ms: int, until_ms: int, customer_id: str | None = None) -> int:
        """See `UsageHistory`."""
        asked = {"since": since_ms, "until": until_ms, "customer": customer_id}
        ((count,),) = self._all("SELECT count(*) " + sql.USED, asked)
        return int(count)

    def rows(self, wanted: RowFilter) -> Iterator[EventRow]:
        """See `EventStore`."""
        asked = {
            "since": wanted.since_ms,
            "until": wanted.until_ms,
            "customer": wanted.customer_id,
            "kinds": None if wanted.kinds is None else sorted(wanted.kinds),
        }
        return (EventRow._make(row) for row in self._pages(sql.ROWS, asked))

    def changes(self, wanted: ChangeFilter) -> list[EventRow]:
        """See `EventStore`."""
        before = wanted.before or _BEHIND_ALL
        asked = {
            "since": wanted.since_ms,
            "until": wanted.until_ms,
            "customer": wanted.customer_id,
            "actor": wanted.actor,
            "action": wanted.action,
            "limit": wanted.limit,
            "at": before.occurred_at_ms,
            "shard": before.shard,
            "epoch": before.epoch,
            "seq": before.seq,
        }
        return [EventRow._make(row) for row in self._all(sql.CHANGES, asked)]

    def charges_since(self, customer_id: str, since_ms: int, position: int) -> ChargeSum:
        """See `EventStore`."""
        ((amount_nano, newest, newest_ms, last),) = self._all(
            sql.CHARGES, (customer_id, since_ms, position)
        )
        return ChargeSum(amount_nano, newest, newest_ms, last)

    def charge_of(self, reservation_id: str) -> tuple[int, str] | None:
        """See `EventStore`."""
        ids = [f"{reservation_id}:{end}" for end in ("settled", "expired", "settled_late")]
        rows = self._all(sql.CHARGED, (ids,))
        return (sum(nano for nano, _ in rows), rows[-1][1]) if rows else None

    def usage_by(self, question: UsageQuestion) -> list[UsageSum]:
        """See `EventStore`."""
        return usage_by(self._all, question)

    def sink_cursors(self, sink: str) -> dict[int, Place]:
        """See `EventStore`."""
        return _places(self._all(sql.SINK_CURSORS, (sink,)))

    def _all(
        self, question: str, asked: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        assert self._connection is not None, "the store is closed"
        try:
            with bounded(self._connection, self._pool.options):
                cursor = self._connection.execute(question.encode(), asked)
                return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise StoreMissing(explained(self._pool.options, error)) from error

    def _pages(self, question: str, asked: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        with self._pool.lent() as connection, connection.transaction():
            connection.execute("SET LOCAL statement_timeout = 0")  # the first page sorts them all
            with connection.cursor("pages") as cursor:
                cursor.itersize = 2000
                yield from cursor.execute(question.encode(), asked)


def _stored(row: tuple[Any, ...]) -> StoredEvent:
    *plain, allocations, usage, price_version, facts, stored_at_ms, position = row
    grants = tuple((grant_no, nano) for grant_no, nano in allocations)
    fields = (*plain, grants, usage, price_version, facts)
    return StoredEvent(Event(*fields), stored_at_ms, position)


def _places(rows: Iterable[tuple[Any, ...]]) -> dict[int, Place]:
    return {shard: Place(epoch, seq) for shard, epoch, seq in rows}
