"""The client of one upstream: a pool of connections to one origin.

Invariants:

- A request is written once. Only a connection that is known to be dead before its first byte is
  replaced; what happens after that byte is an error (`sent=True`), never a second attempt. When
  the upstream closes an idle connection at the very moment of the request, that is such an error.
- Idle connections are used last in, first out, and closed before usual servers close theirs.
- After a chunked answer a connection rests before it is used again: llama.cpp's server closes
  after a stream without having said so, and a request on its heels would have no answer.
- Everything is bounded: connections, callers that wait for one, their time, each phase's time.
- No redirects, no cookies, no environment: the origin is what the configuration says.

One coarse sweep per pool looks after all deadlines, and runs only while there is something to
look after.
"""

import asyncio
import contextlib
import errno
import re
import select
import socket
import ssl
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.http.client.connection import UpstreamConnection
from gateway.http.client.response import NEVER, PooledAnswer
from gateway.http.client.target import join_path, join_query
from gateway.http.interface import CancelledUnsent, UpstreamCause, UpstreamError

PROBE_AFTER_IDLE_S: Final = 0.5
"""A connection idle for longer is asked for a close that the loop has not seen yet."""

REST_AFTER_STREAM_S: Final = 0.1
"""How long a connection is left alone after a chunked answer, for its server's close to arrive."""

_HEAD_CACHE_MOST: Final = 512
_TARGET: Final = re.compile(r"/[\x21-\x7e]*", re.ASCII)
_TOKEN: Final = re.compile(r"[A-Z]+", re.ASCII)
_WITH_LENGTH: Final = frozenset({"POST", "PUT", "PATCH"})

_OWN_FIELDS: Final = frozenset(
    {
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"expect",
        b"te",
        b"trailer",
        b"upgrade",
    }
)
"""Framing is this client's alone; such fields of the caller are dropped (RFC 9110, 7.6.1)."""


@dataclass(frozen=True, slots=True)
class UpstreamTimeouts:
    """Per phase, in ms; they are kept to within a quarter of the smallest, at most 500 ms.

    connect_ms: DNS, TCP and TLS; also how long a caller waits for a free connection
    head_ms:    from the first byte written to the head of the answer
    between_ms: between two reads of the body, while the reader waits
    total_ms:   from the first byte written to the last byte read; None for no bound
    idle_ms:    an unused connection is closed after this (Node and uvicorn close theirs after 5 s)
    """

    connect_ms: int = 5_000
    head_ms: int = 600_000
    between_ms: int = 120_000
    total_ms: int | None = None
    idle_ms: int = 4_000


def upstream_tls(
    *,
    ca_file: Path | None = None,
    verify: bool = True,
    client_certificate: Path | None = None,
    client_key: Path | None = None,
) -> ssl.SSLContext:
    """A TLS context for an upstream: system CAs unless `ca_file`. Raises OSError, ssl.SSLError."""
    context = ssl.create_default_context(cafile=ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if client_certificate is not None:
        context.load_cert_chain(client_certificate, client_key)
    context.set_alpn_protocols(["http/1.1"])
    return context


class UpstreamPool:
    """An `Upstream` for one base URL, such as "https://api.example.com" or "http://10.0.0.7:8000/api".

    tls:               context for https; None makes one with the system's CAs
    query:             parameters added to each request's, encoded
    server_name:       name for SNI and the certificate, when it is not the URL's host
    connections_most:  open or opening at a time
    waiting_most:      callers that may wait for one; the next is refused (sent=False)

    Raises ValueError when the URL is not an http(s) origin with an optional path.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        timeouts: UpstreamTimeouts | None = None,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        query: str = "",
        connections_most: int = 1_000,
        waiting_most: int = 1_000,
    ) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"{base_url!r} is not an http:// or https:// URL")
        if url.username is not None or url.query or url.fragment:
            raise ValueError("an upstream's URL carries no credentials, query or fragment")
        self.name = name
        self._host = url.hostname
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._authority = url.netloc
        self._prefix = url.path.rstrip("/")
        self._query = query
        self._tls = (tls or upstream_tls()) if url.scheme == "https" else None
        self._server_name = (server_name or url.hostname) if self._tls is not None else None
        self._connections_most = connections_most
        self._waiting_most = waiting_most
        times = timeouts or UpstreamTimeouts()
        self._connect_s = times.connect_ms / 1000
        self._head_s = times.head_ms / 1000
        self._between_s = times.between_ms / 1000
        self._total_s = NEVER if times.total_ms is None else times.total_ms / 1000
        self._idle_s = times.idle_ms / 1000
        smallest = min(self._connect_s, self._head_s, self._between_s, self._total_s, self._idle_s)
        self._sweep_every_s = min(max(smallest / 4, 0.01), 0.5)
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._heads: dict[tuple[str, str], bytes] = {}
        self._idle: list[UpstreamConnection] = []
        self._resting: deque[UpstreamConnection] = deque()
        self._connections: set[UpstreamConnection] = set()
        self._opening = 0
        self._waiting: deque[tuple[asyncio.Future[UpstreamConnection | None], float]] = deque()
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return (
            f"<UpstreamPool {self.name}: {len(self._connections)} open, {self._opening} opening,"
            f" {len(self._idle)} idle, {len(self._waiting)} waiting>"
        )

    @property
    def open_count(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    @property
    def idle_count(self) -> int:
        """Open connections without a request."""
        return len(self._idle) + len(self._resting)

    @property
    def waiting_count(self) -> int:
        """Callers that wait for a connection."""
        return len(self._waiting)

    async def send(self, method: str, path: str, headers: bytes, body: bytes) -> PooledAnswer:
        """Send a request once, wait for the answer's head. See `Upstream.send`.

        path: origin-form with its query; the base URL's path is put before it (`join_path`)
        Raises UpstreamError, ValueError (a head that could be read as something else).
        """
        head = self._head(method, path, headers, len(body))
        connection = self._idle_connection()
        if connection is None:
            try:
                connection = await self._acquire()
            except asyncio.CancelledError:
                raise CancelledUnsent from None
        now = connection.loop.time()
        return await connection.request(
            head,
            body,
            bodyless=method == "HEAD",
            head_deadline=now + self._head_s,
            total_deadline=now + self._total_s,
        )

    async def close(self) -> None:
        """Close every connection; requests under way fail. Idempotent."""
        self._closed = True
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        while self._waiting:
            self._refuse_waiting(self._waiting.popleft()[0], "is closed", "stopped")
        for connection in list(self._connections):
            connection.fail("the gate is closing", "stopped")
        if self._connections:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    # The head of a request

    def _head(self, method: str, path: str, headers: bytes, length: int) -> bytes:
        start = self._heads.get((method, path)) or self._remember_head(method, path)
        if length or method in _WITH_LENGTH:
            return b"%b%bcontent-length: %d\r\n\r\n" % (start, headers, length)
        return b"%b%b\r\n" % (start, headers)

    def _remember_head(self, method: str, path: str) -> bytes:
        if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(path):
            raise ValueError("not a method and a target in origin-form")
        target = join_query(join_path(self._prefix, path), self._query)
        head = f"{method} {target} HTTP/1.1\r\nhost: {self._authority}\r\n".encode()
        if "?" not in path:  # a query is seldom sent again
            if len(self._heads) >= _HEAD_CACHE_MOST:
                self._heads.clear()
            self._heads[method, path] = head
        return head

    # Getting a connection

    def _idle_connection(self) -> UpstreamConnection | None:
        if self._resting:
            self._wake_rested()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and not (
                connection.loop.time() - connection.idle_since > PROBE_AFTER_IDLE_S
                and _has_news(connection)
            ):
                return connection
            connection.fail("closed while idle", "closed")
        return None

    def _wake_rested(self) -> None:
        border = self._resting[0].loop.time() - REST_AFTER_STREAM_S
        while self._resting and self._resting[0].idle_since <= border:
            self._idle.append(self._resting.popleft())

    async def _acquire(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._connect_s
        while True:
            if self._closed:
                raise self._error("is closed", "stopped")
            if len(self._connections) + self._opening < self._connections_most:
                return await self._open(loop)
            if len(self._waiting) >= self._waiting_most:
                raise self._error("has too many requests waiting for a connection", "busy")
            self._start_sweep(loop)
            turn: asyncio.Future[UpstreamConnection | None] = loop.create_future()
            self._waiting.append((turn, deadline))
            try:
                connection = await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled() and turn.exception() is None:
                    self._pass_on(turn.result())
                raise
            if connection is not None and connection.usable:
                return connection

    async def _open(self, loop: asyncio.AbstractEventLoop) -> UpstreamConnection:
        self._opening += 1
        connection = None
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await loop.create_connection(
                    lambda: UpstreamConnection(loop, self._between_s, self._on_free, self._on_lost),
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._server_name,
                )
        except TimeoutError:
            raise self._error("could not be connected to in time", "timeout") from None
        except ssl.SSLError as error:
            raise self._error(f"failed the TLS handshake ({error.reason})", "tls") from None
        except socket.gaierror as error:
            code = _RESOLVER_CODES.get(error.errno or 0, "unknown")
            raise self._error(f"has a name that does not resolve ({code})", "dns") from None
        except OSError as error:
            number = _error_number(error)
            code = errno.errorcode.get(number, type(error).__name__)
            cause = _CAUSES.get(number, "unreachable")
            raise self._error(f"could not be connected to ({code})", cause) from None
        finally:
            self._opening -= 1
            if connection is None:
                self._pass_on(None)
        if not connection.usable:
            self._pass_on(None)
            raise self._error("closed the connection at once", "closed")
        if self._closed:
            connection.fail("the gate is closing", "stopped")
            raise self._error("is closed", "stopped")
        self._connections.add(connection)
        self._start_sweep(loop)
        return connection

    def _on_free(self, connection: UpstreamConnection) -> None:
        connection.idle_since = connection.loop.time()
        if self._waiting:
            self._pass_on(connection)
        elif connection.streamed:
            self._resting.append(connection)
        else:
            self._idle.append(connection)

    def _on_lost(self, connection: UpstreamConnection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            with contextlib.suppress(ValueError):
                (self._resting if connection in self._resting else self._idle).remove(connection)
            self._pass_on(None)
            if not self._connections and self._emptied is not None and not self._emptied.done():
                self._emptied.set_result(None)

    def _pass_on(self, connection: UpstreamConnection | None) -> None:
        """Give a connection, or (None) the right to open one, to who waits longest."""
        while self._waiting:
            turn, _ = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        if connection is not None and connection.usable:
            self._idle.append(connection)

    # Deadlines

    def _start_sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._sweep_timer is None and not self._closed:
            self._sweep_timer = loop.call_later(self._sweep_every_s, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep_timer = None
        now = loop.time()
        idle_border = now - self._idle_s
        if self._resting:
            self._wake_rested()
        # Oldest first: last in, first out leaves the longest idle at the front.
        while self._idle and self._idle[0].idle_since < idle_border:
            self._idle.pop(0).fail("idle for too long", "closed")
        for connection in [
            c for c in self._connections if c.phase_deadline < now or c.total_deadline < now
        ]:
            connection.expire()
        while self._waiting and self._waiting[0][1] < now:
            self._refuse_waiting(
                self._waiting.popleft()[0], "had no connection free in time", "timeout"
            )
        if self._connections or self._waiting:
            self._start_sweep(loop)

    def _refuse_waiting(
        self, turn: "asyncio.Future[UpstreamConnection | None]", why: str, cause: UpstreamCause
    ) -> None:
        if not turn.done():
            turn.set_exception(self._error(why, cause))

    def _error(self, what: str, cause: UpstreamCause) -> UpstreamError:
        """What kept a request from being sent."""
        return UpstreamError(f"upstream {self.name} {what}", sent=False, cause=cause)


_CAUSES: Final[dict[int, UpstreamCause]] = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.ECONNABORTED: "reset",
    errno.ETIMEDOUT: "timeout",
}
_RESOLVER_CODES: Final = {
    getattr(socket, name): name for name in dir(socket) if name.startswith("EAI_")
}
_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")


def _error_number(error: OSError) -> int:
    """Its number; of one that stands for several attempts (IPv6, IPv4), the number they share."""
    if error.errno:
        return error.errno
    numbers = {int(number) for number in _ERRNO.findall(str(error))}
    return numbers.pop() if len(numbers) == 1 else 0


def _has_news(connection: UpstreamConnection) -> bool:
    """Whether an idle connection's socket has something to read: its end, or what was not asked."""
    transport = connection.transport
    assert transport is not None
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLHUP)
    return bool(poll.poll(0))
