"""One load on one origin: when each request is due, and which connection sends it."""

import asyncio
import contextlib
import math
import random
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

from loadtest.arrivals import Pace, Pacer, due_times
from loadtest.generator.connection import Connection, code_of
from loadtest.generator.result import Answer, Ending, Outcome, Result
from loadtest.requests import Source

_RECONNECT_PAUSE_S: Final = 0.02
_LOOK_EVERY_S: Final = 0.25


class Load:
    """One load on one origin; `run` it once.

    url:            "http://host:port" (https with `tls`)
    source:         what to send
    connections:    how many at most, each with one request at a time
    seconds:        stop sending after this; None until the source ends
    rate:           requests a second meant to be sent (Poisson); None is closed loop
    arrivals:       seconds after the start at which requests are meant to be sent, instead of `rate`
    timeout_s:      give a request up so long after it was due
    drain_s:        how long requests may still run when sending is over
    record:         keep an Outcome of every request
    on_answer:      called for every finished request; latencies are then not kept here
    on_due:         called with the seconds by which this process noticed a due request late
    """

    def __init__(
        self,
        url: str,
        source: Source,
        *,
        connections: int,
        seconds: float | None = None,
        rate: float | None = None,
        arrivals: Iterable[float] | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 30.0,
        drain_s: float = 10.0,
        record: bool = False,
        seed: int = 0,
        on_answer: Callable[[Answer], None] | None = None,
        on_due: Callable[[float], None] | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._source = source
        self._connections = connections
        self._seconds = seconds
        if rate is not None:
            lasts_s = math.inf if seconds is None else seconds
            arrivals = due_times(Pace(rate, rate, 0, lasts_s), "poisson", random.Random(seed))
        self._arrivals = arrivals
        self._timeout_s = timeout_s
        self._drain_s = drain_s
        self._record = record
        self._on_answer = on_answer
        self._on_due = on_due
        self._connecting = 0
        self._open: set[Connection] = set()
        self._idle: deque[Connection] = deque()
        self._due: deque[float] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = False
        self._running = 0
        self._over = asyncio.Event()
        self._quiet = asyncio.Event()
        self.result = Result()

    @property
    def running(self) -> int:
        """Requests sent and not yet ended."""
        return self._running

    @property
    def waiting(self) -> int:
        """Requests that are due and have no connection yet."""
        return len(self._due)

    async def run(self, start_s: float | None = None) -> Result:
        """Send until it is over, wait for what runs, close all connections.

        start_s: what arrivals count from, in `time.monotonic` seconds; now when None
        """
        loop = asyncio.get_running_loop()
        began_s = time.monotonic()
        start_s = began_s if start_s is None else start_s
        pacer = None
        if self._arrivals is None:
            self._spawn(self._connections)
        else:
            pacer = Pacer(
                (start_s + offset_s for offset_s in self._arrivals),
                lambda dues: _call_soon(loop, self._fire, dues),
                lambda: _call_soon(loop, self._over.set),
            )
            pacer.start()
        looking = asyncio.ensure_future(self._look())
        wait_s = None if self._seconds is None else start_s + self._seconds - time.monotonic()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), wait_s)
        self._ended = True
        if pacer is not None:
            pacer.stop()
        if self._running or self._due:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), self._drain_s)
        self.result.seconds = time.monotonic() - began_s
        self.result.unsent.extend(self._due)
        self._due.clear()
        looking.cancel()
        for task in list(self._tasks):
            task.cancel()
        for connection in list(self._open):
            connection.give_up("unfinished")
        await asyncio.sleep(0)
        return self.result

    def _spawn(self, count: int) -> None:
        for _ in range(count):
            self._connecting += 1
            task = asyncio.ensure_future(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._connect_over)

    def _connect_over(self, task: "asyncio.Task[None]") -> None:
        self._connecting -= 1
        self._tasks.discard(task)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._ended or self._due:
            try:
                await loop.create_connection(
                    lambda: Connection(self), self._host, self._port, ssl=self._tls
                )
                return
            except OSError:
                self.result.connect_failures += 1
                await asyncio.sleep(_RECONNECT_PAUSE_S)

    def _fire(self, dues: list[float]) -> None:
        if self._over.is_set():
            return
        late = self._on_due
        for due_s in dues:
            if late is not None:
                late(time.monotonic() - due_s)
            self._due.append(due_s)
            if self._idle:
                self.ready(self._idle.popleft())
            elif len(self._open) + self._connecting < self._connections:
                self._spawn(1)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            late_s = time.monotonic() - self._timeout_s
            for connection in list(self._open):
                if connection.shot is not None and connection.started_s < late_s:
                    connection.give_up("timeout")

    # -- called by the connections

    def opened(self, connection: "Connection") -> None:
        """A connection is there and may send."""
        self._open.add(connection)
        self.ready(connection)

    def ready(self, connection: "Connection") -> None:
        """Give a free connection its next request, or keep it for later."""
        if self._ended and not self._due:
            return
        if self._arrivals is None:
            intended_s = 0.0
        elif self._due:
            intended_s = self._due.popleft()
        else:
            self._idle.append(connection)
            return
        shot = self._source(self.result.sent)
        if shot is None:
            self._ended = True
            self._due.clear()
            self._over.set()
            return
        self.result.sent += 1
        self._running += 1
        connection.send(shot, intended_s)

    def lost(self, connection: "Connection") -> None:
        """A connection is gone; make another while the load goes on."""
        self._open.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        if self._due or (not self._ended and self._arrivals is None):
            self._spawn(1)

    def ended(self, connection: "Connection", ending: Ending, now_s: float) -> None:
        """Note how the connection's request ended."""
        self._running -= 1
        if self._ended and not self._running and not self._due:
            self._quiet.set()
        result = self.result
        status = connection.status
        result.endings[ending] += 1
        result.statuses[status] += 1
        result.body_bytes += connection.body_bytes
        if self._on_answer is not None:
            self._on_answer(connection.answer(ending, now_s))
            return
        if ending == "whole" and status < 400:
            result.total_s.append(now_s - connection.started_s)
            result.first_byte_s.append(connection.first_byte_s - connection.started_s)
        elif status >= 400:
            result.refusals[status, code_of(connection.error)] += 1
        if self._record and connection.shot is not None:
            result.outcomes.append(
                Outcome(
                    connection.shot.request_id,
                    status,
                    ending,
                    connection.body_bytes,
                    connection.started_s,
                    now_s,
                )
            )


def _call_soon(
    loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: object
) -> None:
    """Have the loop call this; a loop that is closed by now needs it no more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *arguments)
