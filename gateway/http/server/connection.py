"""One client's connection: aiohttp's C parser in front, the flow's handler behind. RFC 9112.

Invariants:

- One request at a time; up to `PIPELINED_MOST` more wait parsed, then reading stops.
- A handler runs in a task of its own that nobody cancels: it learns that its client has gone and
  settles what it has begun.
- Every stage has a deadline, a number that the server's sweep looks at: no timer per request.
- After an error of framing, or an answer given before the request's body was read, the
  connection ends: it is shut for writing, what still comes is thrown away for a while (else the
  client's kernel would drop our answer unread, RFC 9112, 9.6), then it is closed.
- aiohttp's parser (3.14.5) adds the trailers of a chunked body to the *next* request's fields.
  So a connection goes on after a chunked body only if it demonstrably had no trailers and nothing
  stood behind it.
"""

import asyncio
import math
import re
from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from gateway.http.interface import BodyError, ClientGone
from gateway.http.server.exchange import ServedExchange, status_line
from gateway.http.server.strictness import ALLOW, Problem, head_problem, path_problem

if TYPE_CHECKING:
    from gateway.http.server.server import HttpServer

PIPELINED_MOST: Final = 8
FIELD_MOST_BYTES: Final = 8190
FIELDS_MOST: Final = 100
HEAD_MOST_BYTES: Final = 64 * 1024
BODY_BUFFER_BYTES: Final = 64 * 1024
"""Body bytes that wait for the flow before reading stops (the parser stops at twice this)."""
NEVER: Final = math.inf

_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
_REQUEST_LINE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,40} ")


class Stage(IntEnum):
    """Where a connection is; each has its own deadline."""

    IDLE = 0
    """between requests"""
    HEAD = 1
    """a part of a head has come"""
    HANDLING = 2
    """the handler runs; no deadline of ours"""
    BODY = 3
    """the handler waits for the request's body"""
    WRITING = 4
    """the handler waits for a client that reads slowly"""
    ENDING = 5
    """all is said; what comes is thrown away"""


class Connection(BaseProtocol):
    """A protocol of the server's listening socket. Everything else is driven by `HttpServer`."""

    __slots__ = (
        "_chunked_body",
        "_exchange",
        "_head_bytes",
        "_part_of_next",
        "_payload",
        "_queue",
        "_refused",
        "_server",
        "_tainted",
        "_task",
        "counted",
        "deadline",
        "remote",
        "stage",
    )

    def __init__(self, server: "HttpServer", loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            loop,
            HttpRequestParser(
                self,
                loop,
                BODY_BUFFER_BYTES,
                max_line_size=FIELD_MOST_BYTES,
                max_field_size=FIELD_MOST_BYTES,
                max_headers=FIELDS_MOST,
                auto_decompress=False,
                max_msg_queue_size=PIPELINED_MOST,
            ),
        )
        self._server = server
        self._queue: deque[tuple[RawRequestMessage, StreamReader]] = deque()
        self._refused: Problem | None = None
        self._exchange: ServedExchange | None = None
        self._payload: StreamReader | None = None
        self._chunked_body: StreamReader | None = None
        self._tainted = False
        self._part_of_next = False
        self._head_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self.counted = False
        self.remote = ""
        self.stage = Stage.IDLE
        self.deadline = NEVER

    def __repr__(self) -> str:
        return f"<Connection from {self.remote}: {self.stage.name}>"

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.remote = peer[0] if isinstance(peer, tuple) else ""
        self._await_request()
        problem = self._server.admit(self)
        if problem is not None:
            self._server.note_refused(problem[0])
            self._end_with(*problem, linger=False)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.transport is None:
            return
        super().connection_lost(exc)
        self._parser = None
        self._server.forget(self)
        self._queue.clear()
        if self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(ClientGone("the client closed the connection"))
        if self._exchange is not None:
            self._exchange.note_gone()

    def data_received(self, data: bytes) -> None:
        if self.stage is Stage.ENDING or self._parser is None:
            return
        if self._tainted or self._refused is not None:
            return
        body_was_open = not self._body_is_whole()
        try:
            messages, upgraded, _ = self._parser.feed_data(data)
        except HttpProcessingError as error:
            self._parse_failed(error, data)
            return
        for message, payload in messages:
            if self._chunked_body is not None:
                self._tainted = True  # see the law on trailers
                break
            self._payload = payload
            if message.chunked:
                self._chunked_body = payload
            self._queue.append((message, payload))
        chunked = self._chunked_body
        if chunked is not None and chunked.is_eof():
            self._chunked_body = None
            self._tainted = self._tainted or not data.endswith(_LAST_CHUNK)
        if upgraded:
            self._tainted = True
        if len(self._queue) >= PIPELINED_MOST and not self._buffer_paused:
            self._pause_reading_for_buffer()  # the parser has stopped, and may have kept a rest
        if self._exchange is None:
            if self._queue:
                self._next()
            elif data:
                self._part_of_head(len(data))
        elif data and not body_was_open and not messages:
            self._part_of_next = True

    def eof_received(self) -> None:
        """A client that shuts its writing side is gone: the transport closes itself."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp's reader asks for this after every read, paused or not.
        if self._reading_paused:
            super().resume_reading(resume_parser)

    # Requests in

    def _await_request(self) -> None:
        self.stage = Stage.IDLE
        self.deadline = self._loop.time() + self._server.limits.idle_s
        self._head_bytes = 0

    def _part_of_head(self, size: int) -> None:
        if self.stage is Stage.IDLE:
            self.stage = Stage.HEAD
            self.deadline = self._loop.time() + self._server.limits.head_s
        self._head_bytes += size
        if self._head_bytes > HEAD_MOST_BYTES:
            self._refuse(431, "The request's head is too large.")

    def _next(self) -> None:
        message, payload = self._queue.popleft()
        assert self._parser is not None
        self._parser.message_consumed()
        problem = head_problem(message)
        if problem is None:
            path, _, query = message.path.partition("?")
            problem = (
                (400, "The request target must not have a fragment.") if "#" in query else None
            )
            problem = problem or path_problem(path)
        if problem is not None:
            self._refuse(*problem)
            return
        server = self._server
        self._exchange = exchange = ServedExchange(
            self, message, payload, path, query, server.date_field
        )
        self.stage = Stage.HANDLING
        self.deadline = NEVER
        server.begin(self)
        self._task = self._loop.create_task(self._handle(exchange))

    def _parse_failed(self, error: HttpProcessingError, data: bytes) -> None:
        if not self._body_is_whole():
            assert self._payload is not None
            # The body of the request in hand: its flow refuses it, and the connection ends.
            self._tainted = True
            self._payload.set_exception(
                BodyError("bad_request", "The body's framing is not valid.")
            )
            return
        if isinstance(error, LineTooLong):
            problem = 431, "A header field or the request line is too long."
        elif isinstance(error, BadHttpMethod) and _REQUEST_LINE.match(data):
            problem = 405, "The method is not served here."
        else:
            problem = 400, "The request is not valid HTTP/1.1."
        if self._exchange is None:
            self._refuse(*problem)
        else:
            self._refused = problem  # said after the answers before it

    # The handler

    async def _handle(self, exchange: ServedExchange) -> None:
        server = self._server
        try:
            await server.handler(exchange)
        except ClientGone:
            pass
        except asyncio.CancelledError:
            self.abort()
            raise
        except Exception as error:
            server.note_crash(error)
            if not exchange.status and not self.is_lost():
                self._end_with(500, "The gate failed.", linger=True)
        finally:
            self._exchange = None
            self._task = None
            server.done(self)
        if self.stage is not Stage.ENDING and not self.is_lost():
            await self._after(exchange)

    async def _after(self, exchange: ServedExchange) -> None:
        if not exchange.status:
            self._server.note_crash(RuntimeError("a handler gave no answer"))
            self._end_with(500, "The gate gave no answer.", linger=True)
        elif not exchange.complete:
            self.abort()
        elif not exchange.keep_alive:
            self._end(linger=self._tainted or not self._body_is_whole())
        else:
            if self.writing_paused:
                try:
                    await self.drained()
                except ClientGone:
                    return
            self._go_on()

    def _go_on(self) -> None:
        if self._queue:
            self._next()
        elif self._refused is not None:
            self._refuse(*self._refused)
        elif self.is_last():
            self._end(linger=self._tainted)
        else:
            self._await_request()
            if self._part_of_next:
                self._part_of_next = False
                self._part_of_head(0)
        if self._buffer_paused and len(self._queue) <= PIPELINED_MOST // 2:
            self.data_received(b"")  # what the parser kept back
            if len(self._queue) < PIPELINED_MOST:
                self._resume_reading_for_buffer()

    def is_last(self) -> bool:
        """Whether no request is served after the one in hand."""
        return self._server.draining or (self._tainted and not self._queue)

    # For the exchange

    def is_lost(self) -> bool:
        """Whether the client is known to be gone."""
        return self.transport is None or self.transport.is_closing()

    def send(self, data: bytes) -> None:
        """Hand bytes to the transport. Raises ClientGone."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ClientGone("the client closed the connection")
        transport.write(data)

    async def drained(self) -> None:
        """Wait until the client has read most of what was sent. Raises ClientGone."""
        self.stage = Stage.WRITING
        self.deadline = self._loop.time() + self._server.limits.write_s
        try:
            await self._drain_helper()
        except ConnectionError:
            raise ClientGone("the client closed the connection") from None
        finally:
            if self.stage is Stage.WRITING:
                self.stage = Stage.HANDLING
                self.deadline = NEVER
        if self.is_lost():
            raise ClientGone("the client closed the connection")

    def await_body(self) -> None:
        """The handler begins to wait for the body."""
        self.stage = Stage.BODY
        self.deadline = self._loop.time() + self._server.limits.body_s

    def body_done(self) -> None:
        """The handler has the body, or gave it up."""
        if self.stage is Stage.BODY:
            self.stage = Stage.HANDLING
            self.deadline = NEVER

    def abort(self) -> None:
        """Cut the connection; the client sees that something is missing."""
        self.stage = Stage.ENDING
        self.deadline = NEVER
        if self.transport is not None:
            self.transport.abort()

    # Ends

    def _refuse(self, status: int, message: str) -> None:
        """Answer outside of any handler, and end."""
        self._server.note_refused(status)
        self._end_with(status, message, linger=True)

    def _end_with(self, status: int, message: str, *, linger: bool) -> None:
        body = self._server.render_error(status, message)
        extra, connection = "", "close"
        if status == 405:
            extra = f"allow: {ALLOW}\r\n"
        elif status == 426:  # RFC 9110, 15.5.22
            extra, connection = "upgrade: HTTP/1.1\r\n", "close, upgrade"
        head = (
            f"{status_line(status)}{self._server.date_field}{extra}"
            f"content-type: application/json\r\nconnection: {connection}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        if not self.is_lost():
            self.send(head.encode() + body)
            self._end(linger=linger)

    def _end(self, *, linger: bool) -> None:
        """Close once everything is sent; linger throws away what still comes, for a while."""
        self.stage = Stage.ENDING
        self.deadline = self._loop.time() + self._server.limits.linger_s
        self._queue.clear()
        transport = self.transport
        assert transport is not None
        if linger and transport.can_write_eof():
            transport.write_eof()
            self._resume_transport_reading()
        else:
            transport.close()

    def _body_is_whole(self) -> bool:
        return self._payload is None or self._payload.is_eof()

    def close_idle(self) -> None:
        """Close if no request is in hand."""
        if self.stage is Stage.IDLE or self.stage is Stage.HEAD:
            self._end(linger=False)

    def expire(self) -> None:
        """The stage's deadline has passed."""
        if self.stage is Stage.BODY:
            self.body_done()
            assert self._payload is not None
            self._payload.set_exception(
                BodyError("timeout", "The body did not arrive whole in time.")
            )
        elif self.stage is Stage.HEAD:
            self._refuse(408, "The request's head did not arrive whole in time.")
        elif self.stage is Stage.IDLE:
            self._end(linger=False)
        else:
            self.abort()

    def running(self) -> "asyncio.Task[None] | None":
        """The handler's task, if one runs."""
        return self._task
