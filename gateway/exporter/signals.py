"""Sends the store's signals to the operator as webhooks, at least once each.

Invariants: a signal is `delivered` only after a 2xx was read, so a kill at any point repeats and loses
none; the receiver tells repeats by the id. Signals of one customer go in the order in which
they happened: a later one waits for an earlier one. What has waited for `give_up_ms` is `dead`,
kept with its reason; `resend` queues it again.

The schedule lies in the store, not in memory, so that it survives the process. Every
write is one short transaction; it and the sink's wait for each other (write-ahead log) and never fail.
"""

import asyncio
import datetime as dt
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import orjson
import structlog

from gateway.exporter.signing import body_of, headers

T = TypeVar("T")

log = structlog.get_logger("signals")

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


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where signals go. `keys` sign, every one of them; they are never shown.

    source:     of the CloudEvents: whose gate this is
    timeout_ms: for one attempt, connection and answer together
    backoff_ms: first wait after a failure, doubled up to backoff_max_ms, less up to half by chance
    give_up_ms: how long a signal may wait before it is dead
    concurrent: attempts at once, each for another customer
    poll_ms:    between looks for new signals
    """

    url: str = field(repr=False)
    keys: tuple[bytes, ...] = field(repr=False)
    source: str = "creditgate"
    timeout_ms: int = 10_000
    backoff_ms: int = 1_000
    backoff_max_ms: int = 3_600_000
    give_up_ms: int = 3 * 86_400_000
    concurrent: int = 8
    poll_ms: int = 500


@dataclass(slots=True)
class CourierTally:
    """signals_waiting, signals_lag_seconds (age of the oldest that waits): as of the last look;
    the rest counts since start."""

    signals_waiting: int = 0
    signals_lag_seconds: float = 0.0
    signals_delivered: int = 0
    signals_failed: int = 0
    signals_dead: int = 0


@dataclass(frozen=True, slots=True)
class _Due:
    position: int
    signal_id: str
    name: str
    customer_id: str
    event_id: str
    occurred_at_ms: int
    balance_nano: int
    numbers: str
    attempts: int
    waiting_since_ms: int

    def body(self, source: str) -> bytes:
        moment = dt.datetime.fromtimestamp(self.occurred_at_ms / 1000, dt.UTC)
        return body_of(
            source=source,
            signal_id=self.signal_id,
            name=self.name,
            customer_id=self.customer_id,
            event_id=self.event_id,
            occurred_at=moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            balance_nano=self.balance_nano,
            numbers=orjson.loads(self.numbers),
        )


class Courier:
    """Deliver signals from one store to one webhook: `run` until `stop`."""

    def __init__(
        self, path: Path, webhook: Webhook, *, clock_ms: Callable[[], int] | None = None
    ) -> None:
        """path: the store; its tables may still be made when this starts. clock_ms: for tests."""
        self.tally = CourierTally()
        self._path = path
        self._webhook = webhook
        self._clock_ms = clock_ms or (lambda: time.time_ns() // 1_000_000)
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, "signals")
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Stop after the running attempts."""
        self._stopping.set()

    async def run(self) -> None:
        """Deliver until stopped. Waits while the store does not exist or cannot be written."""
        timeout = aiohttp.ClientTimeout(total=self._webhook.timeout_ms / 1000)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                while not self._stopping.is_set():
                    try:
                        busy = await self._round(session)
                    except (sqlite3.Error, OSError) as error:
                        log.warning("signals_wait", reason=str(error))
                        await self._in_thread(self._close)
                        busy = False
                    if not busy:
                        await self._pause(self._webhook.poll_ms / 1000)
        finally:
            await self._in_thread(self._close)
            self._thread.shutdown(wait=False)

    async def _round(self, session: aiohttp.ClientSession) -> bool:
        """Attempt all due signals once. False if there were none."""
        due = await self._in_thread(self._find_due)
        if not due:
            return False
        ends = await asyncio.gather(*(self._attempt(session, item) for item in due))
        await self._in_thread(lambda: self._note(list(zip(due, ends, strict=True))))
        return True

    async def _attempt(self, session: aiohttp.ClientSession, due: _Due) -> str | None:
        """Send a signal once; return None if it was accepted, else the reason."""
        webhook = self._webhook
        body = due.body(webhook.source)
        told = headers(webhook.keys, due.signal_id, self._clock_ms() // 1000, body)
        try:
            async with session.post(
                webhook.url, data=body, headers=told, allow_redirects=False
            ) as answer:
                return None if 200 <= answer.status < 300 else f"answered {answer.status}"
        except TimeoutError:
            return f"no answer within {webhook.timeout_ms} ms"
        except aiohttp.ClientError as error:  # its text may have the URL in it
            return type(error).__name__

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # In the thread

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            where = f"{self._path.absolute().as_uri()}?mode=rw"
            self._connection = sqlite3.connect(where, uri=True, isolation_level=None)
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA busy_timeout = 5000")
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _find_due(self) -> list[_Due]:
        if not self._path.exists():
            return []  # the sink makes it
        connection, now_ms = self._open(), self._clock_ms()
        ((waiting, oldest_ms),) = connection.execute(_WAITING)
        self.tally.signals_waiting = waiting
        self.tally.signals_lag_seconds = max(0, now_ms - oldest_ms) / 1000 if waiting else 0.0
        if not waiting:
            return []
        stale = connection.execute(_BURY_STALE, (now_ms, now_ms - self._webhook.give_up_ms))
        if stale.rowcount:
            self.tally.signals_dead += stale.rowcount
            log.error("signals_dead", count=stale.rowcount, reason="waited too long to be of use")
        rows = connection.execute(_DUE, (now_ms, self._webhook.concurrent))
        return [_Due(*row) for row in rows]

    def _note(self, ends: Sequence[tuple[_Due, str | None]]) -> None:
        connection, now_ms = self._open(), self._clock_ms()
        connection.execute("BEGIN IMMEDIATE")
        try:
            for due, reason in ends:
                connection.execute(*self._outcome(due, reason, now_ms))
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        for due, reason in ends:
            if reason is None:
                self.tally.signals_delivered += 1
                continue
            self.tally.signals_failed += 1
            log.warning(
                "signal_not_taken",
                signal_id=due.signal_id,
                signal=due.name,
                reason=reason,
                attempts=due.attempts + 1,
            )

    def _outcome(self, due: _Due, reason: str | None, now_ms: int) -> tuple[str, tuple[Any, ...]]:
        attempts = due.attempts + 1
        if reason is None:
            return _DELIVERED, (due.position, attempts, now_ms)
        return _AGAIN, (due.position, attempts, now_ms + self._backoff_ms(due.attempts), reason)

    def _backoff_ms(self, failures: int) -> int:
        bound = min(self._webhook.backoff_max_ms, self._webhook.backoff_ms << min(failures, 30))
        return int(bound * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret


def resend(path: Path, signal_id: str) -> bool:
    """Let a signal that was delivered or is dead be sent again, under its own id. False when there
    is none such. Raises sqlite3.OperationalError when there is no store."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=5)
    with closing(connection), connection:
        changed = connection.execute(_RESEND, (signal_id, time.time_ns() // 1_000_000))
        return changed.rowcount == 1
