"""The receiving half of a client's connection: heads and bodies, within the byte budget. RFC 9112.

Invariants:

- One request at a time. What follows it stays unread in a bounded buffer and cannot change how
  the request is answered.
- A head equal to the one before it, but for the digits of its Content-Length, is not parsed again.
- Bytes that the budget refuses are not kept; their request is answered 503.
"""

import asyncio
import math
import re
from abc import abstractmethod
from typing import Final

from gateway.http.budget import UNCHARGED_BYTES, Charge
from gateway.http.interface import BodyError
from gateway.http.server.body import ChunkedBody, IncomingBody, SizedBody
from gateway.http.server.exchange import ServedExchange, too_large
from gateway.http.server.head_memory import RememberedHead
from gateway.http.server.host import Client, Host, Stage, Wire
from gateway.http.server.request_head import HEAD_END, HeadRefused, ParsedHead, beginning_problem

UNASKED_MAX_BYTES: Final = 64 * 1024
"""Bytes of a body, or of requests behind the current one, that arrive before reading stops."""
NEVER: Final = math.inf

_EMPTY_LINES: Final = re.compile(rb"(?:\r\n){1,4}+")
_BAD_FRAMING: Final = "The body's framing is not valid."
OVERLOADED: Final = "The gateway's buffers are full. Try again shortly."

_IDLE: Final = Stage.IDLE
_HANDLING: Final = Stage.HANDLING
_ENDING: Final = Stage.ENDING


class Receiver(asyncio.Protocol, Client, Wire):
    """The receiving half of a connection: it makes requests of bytes. `Connection` serves them."""

    __slots__ = (
        "_body",
        "_body_deadline",
        "_body_error",
        "_body_limit",
        "_buffer",
        "_charge",
        "_checked",
        "_exchange",
        "_host",
        "_loop",
        "_reading_paused",
        "_remembered",
        "_reserved",
        "_waiter",
        "address",
        "deadline",
        "last",
        "remote",
        "sized_openings",
        "stage",
        "task",
        "transport",
        "writing_paused",
    )

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        self._host = host
        self._loop = loop
        self.sized_openings = host.sized_openings
        self._buffer = b""
        self._checked = 0
        self._remembered: RememberedHead | None = None
        self._exchange: ServedExchange | None = None
        self._body: IncomingBody | None = None
        self._body_error: Exception | None = None
        self.last = host.draining
        """Whether no request is served behind the one in hand: true at the latest when stage is
        ENDING while a handler runs."""
        self._body_limit = -1
        self._body_deadline = NEVER
        self._charge: Charge | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._reserved = False
        self.transport: asyncio.Transport | None = None
        self.task: asyncio.Task[None] | None = None
        self.writing_paused = False
        self.address = ""
        """What the connection is counted under; "" when it is not."""
        self.remote = ""
        self.stage = _IDLE
        self.deadline = NEVER

    def __repr__(self) -> str:
        return f"<Connection from {self.remote}: {self.stage.name}>"

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if self.stage is _IDLE:
            known = self._remembered
            if known is not None:
                found = known.match(data)
                if found is not None:
                    length, start = found
                    body = data[start:]
                    if len(body) == length <= UNCHARGED_BYTES:
                        # The usual request: `_begin` with nothing to charge, to collect or to keep.
                        self.stage = _HANDLING
                        self.deadline = NEVER
                        self._exchange = ServedExchange(self, known.parsed, length, body)
                        host = self._host
                        host.requests_total += 1
                        del host.resting[self]
                        waiter = self._waiter
                        assert waiter is not None, "the task of an idle connection waits"
                        if not waiter.done():
                            waiter.set_result(None)
                    else:
                        self._begin(known.parsed, length, body)
                    return
            self._buffer = data
            self._look()
        elif self.stage is Stage.HEAD:
            self._buffer += data
            self._look()
        elif self.stage is not _ENDING:
            if self._body is not None and (not self._body.whole or self._body.length is None):
                self._feed_body(self._body, data)
            else:
                self._keep(data)

    # Requests in

    def _look(self) -> None:
        """Begin the request whose head is in the buffer, if its last byte has arrived."""
        data = self._buffer
        if self._checked == 0:
            # RFC 9112, 2.2: some clients send an empty line behind a body.
            empty = _EMPTY_LINES.match(data)
            if empty is not None:
                self._buffer = data = data[empty.end() :]
            if not data:
                return
        end = data.find(HEAD_END, max(self._checked - 3, 0))
        if end < 0:
            problem = beginning_problem(data, self._checked) if data != b"\r" else None
            if problem is not None:
                self._refuse(*problem)
                return
            self._checked = len(data) if data != b"\r" else 0
            if self.stage is _IDLE:
                self.stage = Stage.HEAD
                self.deadline = self._loop.time() + self._host.limits.head_s
            return
        end += len(HEAD_END)
        block, self._buffer, self._checked = data[:end], b"", 0
        try:
            parsed, length, self._remembered = self._host.heads.read(block)
        except HeadRefused as refused:
            self._refuse(*refused.problem)
            return
        self._begin(parsed, length, data[end:])

    def _begin(self, parsed: ParsedHead, length: int | None, rest: bytes) -> None:
        """Begin a request. rest: what has arrived behind its head."""
        self.stage = _HANDLING
        self.deadline = NEVER
        body: bytes | None = None
        if length == len(rest):
            body = rest
        elif length is not None and length < len(rest):
            body, self._buffer = rest[:length], rest[length:]
        if body is not None and len(body) > UNCHARGED_BYTES and not self._charged(len(body)):
            self._body, body = SizedBody(len(body)), None
            self._body_error = BodyError("overloaded", OVERLOADED)
        if body is None and self._body is None:
            self._body = ChunkedBody() if length is None else SizedBody(length)
            if rest:
                self._feed_body(self._body, rest)
                if self._body.broken:
                    self._refuse(400, _BAD_FRAMING)
                    return
        self._exchange = ServedExchange(self, parsed, length, body)
        self._host.requests_total += 1
        del self._host.resting[self]
        if self.task is None:
            self.task = self._loop.create_task(self._serve())
        else:
            self._wake()

    def _feed_body(self, body: IncomingBody, data: bytes) -> None:
        if self._body_error is not None:
            self._pause_reading()
            return
        before = body.size
        rest = body.feed(data)
        if body.broken:
            self._fail_body(BodyError("bad_request", _BAD_FRAMING))
        elif 0 <= self._body_limit < body.size:
            self._fail_body(too_large(self._body_limit))
        elif not self._reserved and not self._charged(body.size - before):
            self._fail_body(BodyError("overloaded", OVERLOADED))
        elif body.whole:
            if self.stage is Stage.BODY:
                self._wake()
        elif self.stage is not Stage.BODY and body.size > UNASKED_MAX_BYTES:
            self._pause_reading()
        if rest:
            self._keep(rest)

    def _keep(self, data: bytes) -> None:
        """Keep what follows the current request until it has been answered."""
        self._buffer += data
        if len(self._buffer) > UNASKED_MAX_BYTES:
            self._pause_reading()
            if not self._charged(len(data)):
                self._buffer = b""
                self.last = True

    def _charged(self, size: int) -> bool:
        if self._charge is None:
            owner = self._exchange.owner if self._exchange is not None else ""
            self._charge = Charge(self._host.budget, owner)
        return self._charge.add(size)

    def _reserve(self, body: IncomingBody) -> None:
        """Charge the rest of a body before it is read, so that each body that is begun can end.

        Without room the connection waits unread; the server's sweep tries again (`read_on`).
        """
        if body.length is not None:
            if not self._charged(body.length - body.size):
                self._pause_reading()
                self._host.starved.add(self)
                starved_until = self._loop.time() + self._host.limits.starved_s
                self.deadline = min(self._body_deadline, starved_until)
                return
            self._reserved = True
        self._resume_reading()

    def read_on(self) -> None:
        """Try again to find room in the budget for the body."""
        body = self._body
        if self.stage is Stage.BODY and body is not None and body.length is not None:
            if not self._charged(body.length - body.size):
                return
            self._reserved = True
            self.deadline = self._body_deadline
            self._resume_reading()
        self._host.starved.discard(self)

    def _release(self) -> None:
        """Release what was charged for a request that has ended."""
        if self._charge is not None:
            self._charge.clear()
            self._charge = None

    def _fail_body(self, error: Exception) -> None:
        # Complete bodies too: the bytes that exceed a bound can arrive together with the end.
        self._pause_reading()
        if self._body is not None and self._body_error is None:
            self._body_error = error
            self._body.take()
            if self._charge is not None:
                self._charge.clear()
            if self.stage is Stage.BODY:
                self._wake()

    def _pause_reading(self) -> None:
        if not self._reading_paused and self.transport is not None:
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if not self.is_lost():
                assert self.transport is not None
                self.transport.resume_reading()

    # The serving half

    @abstractmethod
    async def _serve(self) -> None:
        """Handle this request, and those that follow it."""

    @abstractmethod
    def _refuse(self, status: int, message: str, *, linger: bool = True) -> None:
        """Answer outside of any handler, and end."""

    @abstractmethod
    def _wake(self) -> None:
        """Wake the task if it waits."""
