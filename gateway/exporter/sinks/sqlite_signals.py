"""The schedule of signals in the embedded store.

Every write is one short transaction; it and the sink's wait for each other (write-ahead log) and never fail.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from gateway.exporter.signal_schedule import Attempted, DueSignal, ScheduleUnavailable, Waiting
from gateway.exporter.sinks.options import SqliteOptions

_DUE: Final = """
    SELECT position, signal_id, name, customer_id, event_id, occurred_at_ms, balance_nano, numbers,
        attempts, waiting_since_ms
    FROM signals AS this INDEXED BY signals_waiting WHERE state = 'waiting' AND next_attempt_at_ms <= ?1
    AND NOT EXISTS (SELECT 1 FROM signals AS earlier WHERE earlier.state = 'waiting'
        AND earlier.customer_id = this.customer_id AND earlier.position < this.position)
    ORDER BY position LIMIT ?2
"""
_BURY_STALE: Final = """
    UPDATE signals SET state = 'dead', ended_at_ms = ?1,
        reason = coalesce(reason, 'waited too long to be of use')
    WHERE state = 'waiting' AND waiting_since_ms <= ?2
"""
_RESEND: Final = """
    UPDATE signals SET state = 'waiting', attempts = 0, next_attempt_at_ms = 0,
        waiting_since_ms = ?2, ended_at_ms = NULL
    WHERE signal_id = ?1 AND state <> 'waiting'
"""
_DELIVERED: Final = """
    UPDATE signals SET state = 'delivered', attempts = ?2, ended_at_ms = ?3, reason = NULL
    WHERE position = ?1 AND state = 'waiting'
"""
_AGAIN: Final = """
    UPDATE signals SET attempts = ?2, next_attempt_at_ms = ?3, reason = ?4
    WHERE position = ?1 AND state = 'waiting'
"""
_WAITING: Final = """
    SELECT count(*), min(waiting_since_ms) FROM signals INDEXED BY signals_waiting
    WHERE state = 'waiting'
"""


class SqliteSchedule:
    """`SignalSchedule` over one file."""

    def __init__(self, options: SqliteOptions) -> None:
        self._path = options.path
        self._connection: sqlite3.Connection | None = None

    def find_due(self, now_ms: int, stale_ms: int, limit: int) -> Waiting:
        """See `SignalSchedule`."""
        if not self._path.exists():
            return Waiting()  # the sink makes it
        with self._usable() as connection:
            ((count, oldest_ms),) = connection.execute(_WAITING)
            if not count:
                return Waiting()
            stale = connection.execute(_BURY_STALE, (now_ms, stale_ms))
            rows = connection.execute(_DUE, (now_ms, limit))
            due = [DueSignal(*row) for row in rows]
            return Waiting(due, count, oldest_ms, stale.rowcount)

    def note(self, attempts: Sequence[Attempted], now_ms: int) -> None:
        """See `SignalSchedule`."""
        with self._usable() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                for each in attempts:
                    connection.execute(*_outcome(each, now_ms))
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def resend(self, signal_id: str, now_ms: int) -> bool:
        """See `SignalSchedule`."""
        with self._usable() as connection:
            return connection.execute(_RESEND, (signal_id, now_ms)).rowcount == 1

    def close(self) -> None:
        """See `SignalSchedule`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _usable(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._open()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise ScheduleUnavailable(f"{self._path.name}: {error}") from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            where = f"{self._path.absolute().as_uri()}?mode=rw"
            self._connection = sqlite3.connect(
                where, uri=True, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA busy_timeout = 5000")
        return self._connection


def _outcome(attempted: Attempted, now_ms: int) -> tuple[str, tuple[Any, ...]]:
    signal, reason = attempted.signal, attempted.reason
    attempts = signal.attempts + 1
    if reason is None:
        return _DELIVERED, (signal.position, attempts, now_ms)
    return _AGAIN, (signal.position, attempts, attempted.next_attempt_at_ms, reason)
