"""One connection to an upstream. HTTP/1.1 only (RFC 9112).

Invariants:

- A connection carries one request at a time. It returns to the pool at the moment the response's last
  byte has been read, if the request was written completely, nothing followed that byte and both
  sides keep alive; in every other case it is closed.
- A response that arrives in one piece is complete before its reader wakes: it never refers to the
  connection, and reading it needs no future.
- Reading stops while `BUFFER_HIGH_BYTES` wait for the reader.
- No timer per request: the pool's sweep looks at when it was started.

`writing.py` is the other half: how a request is written, and how everything ends.
"""

import asyncio
from typing import Final, Protocol

from gateway.http.client.body import ChunkDecoder, ChunkedBody, PlainBody
from gateway.http.client.head import (
    HEAD_MOST_BYTES,
    HeadReader,
    Layout,
    Malformed,
    PartialHead,
    Values,
)
from gateway.http.client.response import (
    BUFFER_HIGH_BYTES,
    CompleteResponse,
    PooledResponse,
    Response,
)
from gateway.http.client.writing import RequestWriter

INTERIM_MOST: Final = 8


class Home(Protocol):
    """The pool of a connection, as the connection sees it.

    heads:     reads heads, for all connections of the pool
    head_s:    the deadline of a response's head, from the first byte written
    between_s: the deadline between two reads of a body
    total_s:   the deadline of a response's end, from the first byte written
    """

    heads: HeadReader
    head_s: float
    between_s: float
    total_s: float

    def on_free(self, connection: "UpstreamConnection") -> None:
        """The connection can carry the next request."""
        ...

    def on_lost(self, connection: "UpstreamConnection") -> None:
        """The connection is closed, for whatever reason. Called once."""
        ...


class UpstreamConnection(RequestWriter):
    """A connection of a pool.

    in_use:     whether a request has it; while it is idle no deadline counts
    owner:      whose request it carries, or carried last
    streamed:   the last response was chunked: its server may close without having said so
    """

    __slots__ = (
        "_chunks",
        "_home",
        "_interim_count",
        "_keep_alive",
        "_partial",
        "_paused_reading",
        "idle_since",
        "in_use",
        "owner",
        "streamed",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, home: Home) -> None:
        super().__init__(loop)
        self.in_use = False
        self.owner = ""
        self.streamed = False
        self.idle_since = 0.0
        self._home = home
        self._partial: PartialHead | None = None
        self._chunks: ChunkDecoder | None = None
        self._keep_alive = False
        self._interim_count = 0
        self._paused_reading = False

    # The pool's side

    def sweep(self, now: float) -> None:
        """Fail the request if one of its deadlines has passed. now: loop time"""
        home, body, past_s = self._home, self._body, now - self._started_at
        if body is None:
            if past_s > min(home.head_s, home.total_s):
                self.fail("the response took too long before its head", "timeout")
        elif past_s > home.total_s or body.response.is_silent(now, home.between_s):
            self.fail("the response took too long between bytes", "timeout")

    # The response's side, see `Carrier`

    def resume(self) -> None:
        """The reader has taken everything."""
        if self._paused_reading:
            self._paused_reading = False
            if self.transport is not None:
                self.transport.resume_reading()

    def stop(self) -> None:
        """The reader wants no more of the response."""
        self.fail("closed by the gate before its end", "stopped")

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        body = self._body
        if body is not None:
            try:
                state = body.feed(data)
            except Malformed:
                self.fail("sent a malformed response", "malformed")
                return
            if state != "more":
                self._finish(reusable=state == "end" and self._keep_alive and self._written)
            elif body.response.size > BUFFER_HIGH_BYTES:
                self._pause()
            return
        usual = self._usual
        if usual is not None:
            # The usual response, complete and with the field names of the last one, takes a match of
            # one pattern and a comparison of lengths. Every other one is read step by step.
            home = self._home
            layout = home.heads.latest
            head = layout.match(data, 0, HEAD_MOST_BYTES)
            if head is not None and layout.usual:
                values = head.groups()
                body_at = head.end()
                if len(data) - body_at == int(values[layout.length_at]):
                    self._request = self._usual = None
                    home.on_free(self)
                    if not usual.done():
                        usual.set_result(CompleteResponse(layout, values, data, body_at))
                    return
            self._usual = None
        if self._request is None:
            # Nothing was asked: a late error page, or an attempt to slip in a response.
            self.fail("sent bytes that nobody asked for", "malformed")
            return
        try:
            self._read_head(data, self._request)
        except Malformed:
            self.fail("sent a malformed response", "malformed")

    def eof_received(self) -> bool:
        # RFC 9112, 6.3, rule 8: without a length the body ends with the connection.
        body = self._body
        if isinstance(body, PlainBody) and body.left is None:
            self._finish(reusable=False)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        where = "before it responded" if self._body is None else "in the middle of its response"
        if exc is None:
            self.fail(f"closed the connection {where}", "closed")
        else:
            self.fail(f"reset the connection {where}", "reset")
        self._chunks = self._poll = None
        self._home.on_lost(self)

    # Reading

    def _read_head(self, data: bytes, request: "asyncio.Future[Response]") -> None:
        if self._partial is not None:
            data = self._partial.add(data)
            if not data:
                return
            self._partial = None
        while True:
            head = self._home.heads.read(data)
            if head is None:
                self._partial = PartialHead(data)
                return
            layout, values, end = head
            if layout.status >= 200:
                break
            # RFC 9110, 15.2: interim responses are skipped; 101 was never asked for.
            self._interim_count += 1
            if layout.status == 101 or self._interim_count > INTERIM_MOST:
                raise Malformed("interim responses that were not asked for")
            data = data[end:]
            if not data:
                return
        if layout.bodyless or self._bodyless:
            left = 0
        elif layout.length_at >= 0:
            left = int(values[layout.length_at])
        else:
            self._begin_body(layout, values, data, end)
            return
        behind = len(data) - end - left
        if behind < 0:
            self._begin_body(layout, values, data, end)
            return
        self._finish(reusable=behind == 0 and layout.keep_alive and self._written)
        if not request.done():
            raw = data[: end + left] if behind else data
            request.set_result(CompleteResponse(layout, values, raw, end))

    def _begin_body(self, layout: Layout, values: Values, data: bytes, end: int) -> None:
        """The head of a response is read, whose body has not arrived completely, or is not known to."""
        request = self._request
        assert request is not None
        response = PooledResponse(layout, values, self)
        response.raw = data
        if layout.chunked:
            self._chunks = self._chunks or ChunkDecoder()
            self._body = ChunkedBody(response, self._chunks)
            self.streamed = True
        else:
            at = layout.length_at
            self._body = PlainBody(response, int(values[at]) if at >= 0 else None)
        self._keep_alive = layout.keep_alive
        if not request.done():
            request.set_result(response)
        self._wake_writer()
        if end < len(data):
            self.data_received(data[end:])

    def _pause(self) -> None:
        if not self._paused_reading and self.transport is not None:
            self._paused_reading = True
            self.transport.pause_reading()

    def _finish(self, *, reusable: bool) -> None:
        self._request = None
        body = self._body
        if body is not None:
            self._body = None
            body.response.finish()
            self.resume()
        self._interim_count = 0
        if self._write_waiter is not None:
            self._wake_writer()
        transport = self.transport
        if transport is None:
            return
        if reusable and not transport.is_closing():
            self._home.on_free(self)
        elif self._written:
            transport.close()
        else:
            transport.abort()  # close would wait for a body that nobody reads
