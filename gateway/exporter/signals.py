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
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import aiohttp
import orjson
import structlog

from gateway.exporter.replay import TEST_CUSTOMER
from gateway.exporter.signal_schedule import (
    Attempted,
    DueSignal,
    ScheduleUnavailable,
    SignalSchedule,
    Waiting,
)
from gateway.exporter.signing import body_of, headers

T = TypeVar("T")

log = structlog.get_logger("signals")


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


class Courier:
    """Deliver signals from one store to one webhook: `run` until `stop`."""

    def __init__(
        self,
        schedule: SignalSchedule,
        webhook: Webhook,
        *,
        clock_ms: Callable[[], int] | None = None,
    ) -> None:
        """schedule: of the store; its tables may still be made when this starts. clock_ms: for tests."""
        self.tally = CourierTally()
        self._schedule = schedule
        self._webhook = webhook
        self._clock_ms = clock_ms or (lambda: time.time_ns() // 1_000_000)
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
                    except ScheduleUnavailable as error:
                        log.warning("signals_wait", reason=str(error))
                        busy = False
                    if not busy:
                        await self._pause(self._webhook.poll_ms / 1000)
        finally:
            await self._in_thread(self._schedule.close)
            self._thread.shutdown(wait=False)

    async def _round(self, session: aiohttp.ClientSession) -> bool:
        """Attempt all due signals once. False if there were none."""
        now_ms, webhook = self._clock_ms(), self._webhook
        stale_ms = now_ms - webhook.give_up_ms
        waiting = await self._in_thread(
            lambda: self._schedule.find_due(now_ms, stale_ms, webhook.concurrent)
        )
        self._take_waiting(waiting)
        if not waiting.due:
            return False
        ends = await asyncio.gather(
            *(send_once(session, webhook, item, self._clock_ms()) for item in waiting.due)
        )
        pairs = list(zip(waiting.due, ends, strict=True))
        noted = self._note(pairs)
        await self._in_thread(lambda: self._schedule.note(noted, self._clock_ms()))
        self._count(pairs)
        return True

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _take_waiting(self, waiting: Waiting) -> None:
        now_ms = self._clock_ms()
        self.tally.signals_waiting = waiting.count
        oldest_ms = waiting.oldest_ms
        self.tally.signals_lag_seconds = max(0, now_ms - oldest_ms) / 1000 if oldest_ms else 0.0
        if waiting.buried:
            self.tally.signals_dead += waiting.buried
            log.error("signals_dead", count=waiting.buried, reason="waited too long to be of use")

    def _note(self, ends: Sequence[tuple[DueSignal, str | None]]) -> list[Attempted]:
        now_ms = self._clock_ms()
        noted = []
        for due, reason in ends:
            if reason is None:
                noted.append(Attempted(due, None))
                continue
            noted.append(Attempted(due, reason, now_ms + self._backoff_ms(due.attempts)))
        return noted

    def _count(self, ends: Sequence[tuple[DueSignal, str | None]]) -> None:
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

    def _backoff_ms(self, failures: int) -> int:
        bound = min(self._webhook.backoff_max_ms, self._webhook.backoff_ms << min(failures, 30))
        return int(bound * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret


async def send_once(
    session: aiohttp.ClientSession, webhook: Webhook, due: DueSignal, now_ms: int
) -> str | None:
    """Send a signal once; return None if it was accepted, else the reason."""
    body = _body(due, webhook.source)
    told = headers(webhook.keys, due.signal_id, now_ms // 1000, body)
    try:
        async with session.post(
            webhook.url, data=body, headers=told, allow_redirects=False
        ) as answer:
            return None if 200 <= answer.status < 300 else f"answered {answer.status}"
    except TimeoutError:
        return f"no answer within {webhook.timeout_ms} ms"
    except aiohttp.ClientError as error:  # its text may have the URL in it
        return type(error).__name__


async def send_test_signal(webhook: Webhook) -> str | None:
    """Send a signal of the customer `creditgate-test`, once; return None if it was accepted, else the
    reason. Nothing is recorded."""
    now_ms = time.time_ns() // 1_000_000
    signal_id = f"sig_test{secrets.token_hex(14)}"
    numbers = orjson.dumps({"threshold_nano": 0}).decode()
    due = DueSignal(
        0, signal_id, "low_balance", TEST_CUSTOMER, signal_id, now_ms, 0, numbers, 0, now_ms
    )
    timeout = aiohttp.ClientTimeout(total=webhook.timeout_ms / 1000)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        return await send_once(session, webhook, due, now_ms)


def _body(due: DueSignal, source: str) -> bytes:
    moment = dt.datetime.fromtimestamp(due.occurred_at_ms / 1000, dt.UTC)
    return body_of(
        source=source,
        signal_id=due.signal_id,
        name=due.name,
        customer_id=due.customer_id,
        event_id=due.event_id,
        occurred_at=moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        balance_nano=due.balance_nano,
        numbers=orjson.loads(due.numbers),
    )
