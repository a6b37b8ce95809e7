"""The schedule of signals in Postgres. Several gates may each run a courier.

A look locks the signals that it returns until their attempts are noted, and passes over those that another
courier has locked: each attempt is made by one of them. A courier that dies between loses its connection
and with it the locks; the next look repeats its attempts, so none is lost.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from gateway.exporter.signal_schedule import Attempted, DueSignal, ScheduleUnavailable, Waiting
from gateway.exporter.sinks.options import PostgresOptions
from gateway.exporter.sinks.postgres_pool import (
    Connection,
    bounded,
    connect,
    explained,
    has_store,
)

_SESSION: Final = b"""
    SET idle_in_transaction_session_timeout = 0; SET tcp_keepalives_idle = 10;
    SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3
"""
"""The transaction idles while the attempts run; the server notices when this machine is gone."""
_WAITING: Final = b"SELECT count(*), min(waiting_since_ms) FROM signals WHERE state = 'waiting'"
_BURY_STALE: Final = b"""
    UPDATE signals SET state = 'dead', ended_at_ms = %(now)s,
        reason = coalesce(reason, 'waited too long to be of use')
    WHERE position IN (SELECT position FROM signals
        WHERE state = 'waiting' AND waiting_since_ms <= %(stale)s FOR UPDATE SKIP LOCKED)
"""
_DUE: Final = b"""
    SELECT position, signal_id, name, customer_id, event_id, occurred_at_ms, balance_nano,
        numbers::text, attempts, waiting_since_ms
    FROM signals AS this WHERE state = 'waiting' AND next_attempt_at_ms <= %s
    AND NOT EXISTS (SELECT 1 FROM signals AS earlier WHERE earlier.state = 'waiting'
        AND earlier.customer_id = this.customer_id AND earlier.position < this.position)
    ORDER BY position LIMIT %s FOR UPDATE SKIP LOCKED
"""
_RESEND: Final = b"""
    UPDATE signals SET state = 'waiting', attempts = 0, next_attempt_at_ms = 0,
        waiting_since_ms = %s, ended_at_ms = NULL
    WHERE signal_id = %s AND state <> 'waiting'
"""
_DELIVERED: Final = b"""
    UPDATE signals SET state = 'delivered', attempts = %s, ended_at_ms = %s, reason = NULL
    WHERE position = %s AND state = 'waiting'
"""
_AGAIN: Final = b"""
    UPDATE signals SET attempts = %s, next_attempt_at_ms = %s, reason = %s
    WHERE position = %s AND state = 'waiting'
"""


class PostgresSchedule:
    """`SignalSchedule` over one schema."""

    def __init__(self, options: PostgresOptions) -> None:
        self._options = options
        self._connection: Connection | None = None

    def find_due(self, now_ms: int, stale_ms: int, limit: int) -> Waiting:
        """See `SignalSchedule`. What is returned stays locked until it is noted, or the next look."""
        with self._usable() as connection:
            connection.rollback()
            if not has_store(connection, self._options.schema):
                return Waiting()  # the sink makes it
            ((count, oldest_ms),) = connection.execute(_WAITING)
            if not count:
                return Waiting()
            stale = connection.execute(_BURY_STALE, {"now": now_ms, "stale": stale_ms})
            connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            due = [DueSignal(*row) for row in connection.execute(_DUE, (now_ms, limit))]
            if not due:
                connection.rollback()
            return Waiting(due, count, oldest_ms, stale.rowcount)

    def note(self, attempts: Sequence[Attempted], now_ms: int) -> None:
        """See `SignalSchedule`."""
        with self._usable() as connection:
            if connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
                connection.execute("BEGIN")  # the connection, and with it the locks, is a new one
            for each in attempts:
                connection.execute(*_outcome(each, now_ms))
            connection.commit()

    def resend(self, signal_id: str, now_ms: int) -> bool:
        """See `SignalSchedule`."""
        with self._usable() as connection:
            return connection.execute(_RESEND, (now_ms, signal_id)).rowcount == 1

    def close(self) -> None:
        """See `SignalSchedule`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _usable(self) -> Iterator[Connection]:
        try:
            if self._connection is None:
                self._connection = connect(self._options, read_only=False)
                self._connection.execute(_SESSION)
            with bounded(self._connection, self._options):
                yield self._connection
        except (psycopg.Error, OSError) as error:
            self.close()
            raise ScheduleUnavailable(explained(self._options, error)) from error


def _outcome(attempted: Attempted, now_ms: int) -> tuple[bytes, tuple[Any, ...]]:
    signal, reason = attempted.signal, attempted.reason
    attempts = signal.attempts + 1
    if reason is None:
        return _DELIVERED, (attempts, now_ms, signal.position)
    return _AGAIN, (attempts, attempted.next_attempt_at_ms, reason, signal.position)
