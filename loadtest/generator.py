"""The load generator: closed and open loop over raw connections.

    python -m loadtest.generator http://127.0.0.1:8080 --key sk-demo --model sim-small \
        --connections 32 --seconds 5 [--rate 500] [--stream]

Invariants: every request sent ends in exactly one outcome, and every request that was due is sent or
counted as unsent. In open loop a request's latency runs from when it was meant to be sent, so
a stalled server cannot hide behind a waiting client.
"""

import argparse
import asyncio
import contextlib
import itertools
import math
import random
import ssl
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, cast
from urllib.parse import urlsplit

import httptools
import orjson
import uvloop
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from loadtest.arrivals import Pace, Pacer, due_times
from loadtest.requests import CLIENT_HEADERS, Shot, Source, chat_body, http_request, same

Ending = Literal["whole", "cut", "left", "timeout", "unfinished"]
"""whole: answered to the end · cut: the connection broke · left: this client went away on
purpose · timeout: no end in time · unfinished: the load was over first."""

_RECONNECT_PAUSE_S: Final = 0.02
_LOOK_EVERY_S: Final = 0.25
_KEPT_ERROR_BYTES: Final = 2048


@dataclass(slots=True)
class Outcome:
    """How one request ended. Times are `time.monotonic` seconds; status 0 is none."""

    request_id: str
    status: int
    ending: Ending
    body_bytes: int
    started_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """One request that has ended, for whoever watches the load. Times are `time.monotonic` seconds.

    intended_s:    when it was due (closed loop: when it was sent)
    sent_s:        when its first byte went out
    first_byte_s:  when the first byte of the answer came; 0 is never
    status:        0 is none
    code:          what an error calls itself, in its body or in the stream
    gaps_s:        between the frames of a stream, in order
    """

    shot: Shot
    ending: Ending
    status: int
    code: str
    intended_s: float
    sent_s: float
    first_byte_s: float
    ended_s: float
    gaps_s: list[float]


@dataclass(slots=True)
class Result:
    """What a load gave. Latencies in seconds, of whole answers below 400 alone.

    unsent:   were due and never got a connection
    """

    seconds: float = 0.0
    sent: int = 0
    unsent: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    refusals: Counter[tuple[int, str]] = field(default_factory=Counter)
    connect_failures: int = 0
    body_bytes: int = 0
    first_byte_s: "array[float]" = field(default_factory=lambda: array("d"))
    total_s: "array[float]" = field(default_factory=lambda: array("d"))
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def good(self) -> int:
        """Whole answers below 400."""
        return len(self.total_s)

    @property
    def per_second(self) -> float:
        """Good answers a second."""
        return self.good / self.seconds if self.seconds else 0.0


def percentile(values: "array[float]", share: float) -> float:
    """The value below which this share of the values lies; NaN when there are none."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


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
    on_answer:      told of every request that has ended; latencies are then not kept here
    on_due:         told how many seconds late this process was to see that a request is due
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
        self._open: set[_Connection] = set()
        self._idle: deque[_Connection] = deque()
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
                    lambda: _Connection(self), self._host, self._port, ssl=self._tls
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

    def opened(self, connection: "_Connection") -> None:
        """A connection is there and may send."""
        self._open.add(connection)
        self.ready(connection)

    def ready(self, connection: "_Connection") -> None:
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

    def lost(self, connection: "_Connection") -> None:
        """A connection is gone; make another while the load goes on."""
        self._open.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        if self._due or (not self._ended and self._arrivals is None):
            self._spawn(1)

    def ended(self, connection: "_Connection", ending: Ending, now_s: float) -> None:
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
            result.refusals[status, _code(connection.error)] += 1
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


class _Connection(asyncio.Protocol):
    def __init__(self, load: Load) -> None:
        self._load = load
        self._parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport
        self.shot: Shot | None = None
        self.started_s = 0.0
        self.first_byte_s = 0.0
        self.status = 0
        self.body_bytes = 0
        self.error = b""
        self._now_s = 0.0
        self._sent_s = 0.0
        self._frame_s = 0.0
        self._half_end = False
        self._gaps_s: list[float] = []
        self._whole = False
        self._keep = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._load.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self._finish("cut")
        self._load.lost(self)

    def send(self, shot: Shot, intended_s: float) -> None:
        """Send a request; its latency counts from intended_s, or from now when that is 0."""
        self.shot = shot
        self._sent_s = time.monotonic()
        self.started_s = intended_s or self._sent_s
        self.first_byte_s = 0.0
        self.status = self.body_bytes = 0
        self.error = b""
        self._frame_s = 0.0
        self._half_end = False
        self._gaps_s = []
        self.transport.write(shot.data)

    def give_up(self, ending: Ending) -> None:
        """End the running request, if any, and the connection."""
        self._finish(ending)
        self.transport.abort()

    def answer(self, ending: Ending, now_s: float) -> Answer:
        """How the running request ended."""
        assert self.shot is not None
        return Answer(
            self.shot,
            ending,
            self.status,
            _code(self.error) if self.error else "",
            self.started_s,
            self._sent_s,
            self.first_byte_s,
            now_s,
            self._gaps_s,
        )

    def data_received(self, data: bytes) -> None:
        self._now_s = time.monotonic()
        if not self.first_byte_s:
            self.first_byte_s = self._now_s
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.give_up("cut")
            return
        shot = self.shot
        if self._whole:
            # after the parser has returned: it must not be fed the next answer from inside
            self._whole = False
            self._finish("whole")
            if self._keep:
                self._load.ready(self)
            else:
                self.transport.close()
        elif (
            shot is not None
            and shot.leave_after_bytes is not None
            and self.body_bytes >= shot.leave_after_bytes
        ):
            self.give_up("left")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.body_bytes += len(data)
        if self.status >= 400:
            if len(self.error) < _KEPT_ERROR_BYTES:
                self.error += data
        elif self.shot is not None and self.shot.frames:
            self._frames(data)

    def _frames(self, data: bytes) -> None:
        """Note when each server-sent event ended, and one that says the answer failed."""
        ends = data.count(b"\n\n") + (self._half_end and data.startswith(b"\n"))
        self._half_end = data.endswith(b"\n") and not data.endswith(b"\n\n")
        if ends:
            if self._frame_s:
                self._gaps_s.append(self._now_s - self._frame_s)
            # what came in one piece came at the same time
            self._gaps_s.extend(itertools.repeat(0.0, ends - 1))
            self._frame_s = self._now_s
        if b'"error"' in data and not self.error:
            self.error = _error_of_event(data)

    def on_message_complete(self) -> None:
        self._whole = self.status >= 200  # 1xx is not the answer
        self._keep = self._parser.should_keep_alive()  # known here alone

    def _finish(self, ending: Ending) -> None:
        if self.shot is not None:
            self._load.ended(self, ending, time.monotonic())
            self.shot = None


def _call_soon(
    loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: object
) -> None:
    """Have the loop call this; a loop that is closed by now needs it no more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *arguments)


def _error_of_event(data: bytes) -> bytes:
    """The document of an event that tells of an error; empty when none of these is one."""
    for line in data.splitlines():
        if line.startswith(b"data: {"):
            with contextlib.suppress(orjson.JSONDecodeError):
                if isinstance(orjson.loads(line[6:]).get("error"), dict):
                    return line[6:]
    return b""


def _code(body: bytes) -> str:
    """What an error body calls itself: its code, else its type."""
    try:
        error = orjson.loads(body)["error"]
        return str(error.get("code") or error.get("type") or "")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return ""


async def watched(load: Load, console: Console) -> Result:
    """Run a load with its progress shown."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting")

        async def show() -> None:
            while True:
                counts = ", ".join(f"{n}× {s or 'none'}" for s, n in load.result.statuses.items())
                progress.update(task, description=f"{load.result.sent} sent · {counts}")
                await asyncio.sleep(0.2)

        showing = asyncio.ensure_future(show())
        try:
            return await load.run()
        finally:
            showing.cancel()


def summary(result: Result) -> Table:
    """The figures of a load, as a table."""
    table = Table("figure", "value", show_header=False)
    table.add_row("good answers", f"{result.good:,} in {result.seconds:.1f} s")
    table.add_row("a second", f"{result.per_second:,.0f}")
    for name, values in (("first byte", result.first_byte_s), ("whole answer", result.total_s)):
        cells = [f"{percentile(values, share) * 1e3:.2f}" for share in (0.5, 0.9, 0.99)]
        table.add_row(f"{name}, ms p50 / p90 / p99", " / ".join(cells))
    for ending, count in sorted(result.endings.items()):
        table.add_row(f"ended {ending}", f"{count:,}")
    for (status, code), count in sorted(result.refusals.items()):
        table.add_row(f"refused {status} {code}", f"{count:,}")
    if result.connect_failures:
        table.add_row("connect failures", f"{result.connect_failures:,}")
    return table


def main() -> None:
    """Entry point of `python -m loadtest.generator`."""
    parser = argparse.ArgumentParser(prog="loadtest.generator", description="Load on a gate.")
    parser.add_argument("url", help="http://host:port of the gate or the provider")
    parser.add_argument("--key", default="sk-demo")
    parser.add_argument("--model", default="sim-small")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rate", type=float, help="requests a second, open loop; else closed")
    parser.add_argument("--bytes", type=int, default=950, help="size of a request's body")
    parser.add_argument("--ca", help="PEM file of the authority to trust")
    arguments = parser.parse_args()
    body = chat_body(arguments.model, stream=arguments.stream, size_bytes=arguments.bytes)
    headers = {**CLIENT_HEADERS, "authorization": f"Bearer {arguments.key}"}
    shot = Shot(http_request("/v1/chat/completions", body, headers))
    console = Console()

    async def run() -> Result:
        load = Load(
            arguments.url,
            same(shot),
            connections=arguments.connections,
            seconds=arguments.seconds,
            rate=arguments.rate,
            tls=ssl.create_default_context(cafile=arguments.ca) if arguments.ca else None,
        )
        return await watched(load, console)

    console.print(summary(uvloop.run(run())))


if __name__ == "__main__":
    main()
