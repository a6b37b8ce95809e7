"""One connection to an upstream. HTTP/1.1 only (RFC 9112). Its answers are `upstream_answer.py`.

Invariants:

- A connection carries one request at a time. It goes back to the pool at the moment the
  answer's last byte has been parsed, if the request was written whole, nothing stood behind that
  byte and both sides keep alive; in every other case it is closed.
- Once the first byte of a request was handed to the transport, every failure says `sent=True`:
  whether the upstream has it is not known, so nobody may send it again.
- Reading stops while `BUFFER_HIGH_BYTES` wait for the reader; a big body is handed to the
  transport in slices, each when the one before has left.
- The parser's callback for a piece of a body is a list's own `append`: of a stream that comes in many
  chunks at once, none costs a call of ours. They are handed over together after each parse.
- No timer per request: a deadline is a number on the connection that the pool's sweep looks at.
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import Final, cast

import httptools

from gateway.http.client.response import NEVER, PooledAnswer
from gateway.http.interface import UpstreamCause, UpstreamError

BUFFER_HIGH_BYTES: Final = 256 * 1024
WHOLE_WRITE_BYTES: Final = 64 * 1024
HEAD_MOST_BYTES: Final = 64 * 1024
HEAD_MOST_FIELDS: Final = 128
INTERIM_MOST: Final = 8
_NAMES_REMEMBERED: Final = 256

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


@lru_cache(_NAMES_REMEMBERED)
def _framing_name(name: bytes) -> bytes | None:
    """The name in lower case, if it is about this connection or this message's framing."""
    low = name.lower()
    return low if low in _HOP_BY_HOP or low == b"content-length" else None


class _Malformed(Exception):
    """The upstream's bytes are not one answer that we accept."""


class UpstreamConnection(asyncio.Protocol):
    """A connection of a pool. The pool gives the timeouts (seconds) and takes it back.

    on_free: called when the connection can carry the next request
    on_lost: called once when it is closed, for whatever reason
    """

    __slots__ = (
        "_answer",
        "_arrived",
        "_bodyless",
        "_connection_options",
        "_field_bytes",
        "_field_count",
        "_head_bytes",
        "_head_done",
        "_interim_count",
        "_keep_alive",
        "_message_done",
        "_on_free",
        "_on_lost",
        "_parser",
        "_paused_reading",
        "_paused_writing",
        "_read_timeout_s",
        "_until_close",
        "_write_waiter",
        "_written",
        "idle_since",
        "loop",
        "on_body",
        "phase_deadline",
        "streamed",
        "total_deadline",
        "transport",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        read_timeout_s: float,
        on_free: Callable[["UpstreamConnection"], None],
        on_lost: Callable[["UpstreamConnection"], None],
    ) -> None:
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.idle_since = 0.0
        self.phase_deadline = NEVER
        self.total_deadline = NEVER
        self._read_timeout_s = read_timeout_s
        self._on_free = on_free
        self._on_lost = on_lost
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: PooledAnswer | None = None
        self._write_waiter: asyncio.Future[None] | None = None
        self._paused_reading = False
        self._paused_writing = False
        self._arrived: list[bytes] = []
        self.on_body = self._arrived.append
        self._begin(bodyless=False)

    def _begin(self, *, bodyless: bool) -> None:
        self._bodyless = bodyless
        self._head_done = False
        self._message_done = False
        self._keep_alive = False
        self._until_close = True
        self._written = False
        self._head_bytes = 0
        self._field_bytes = 0
        self._field_count = 0
        self._interim_count = 0
        self._connection_options: bytes | None = None
        self.streamed = False
        """The last answer was chunked: its server may close without having said so."""

    @property
    def usable(self) -> bool:
        """Whether a request may be written: nothing on this side knows of an end."""
        return self.transport is not None and not self.transport.is_closing()

    # The pool's and the reader's side

    async def request(
        self,
        head: bytes,
        body: bytes,
        *,
        bodyless: bool,
        head_deadline: float,
        total_deadline: float,
    ) -> PooledAnswer:
        """Write a request and wait for the answer's head. Raises UpstreamError(sent=True).

        bodyless: the answer has no body whatever its head says (HEAD)
        """
        transport = self.transport
        assert transport is not None
        assert self._answer is None, "one request at a time"
        self._begin(bodyless=bodyless)
        self._answer = answer = PooledAnswer(self)
        self.phase_deadline = head_deadline
        self.total_deadline = total_deadline
        try:
            if len(body) <= WHOLE_WRITE_BYTES:
                transport.write(head + body if body else head)
                self._written = True
            else:
                await self._write_slices(transport, head, body)
            while answer.status == 0 and answer.error is None:
                await answer.news()
        except BaseException:
            answer.close()
            raise
        # By now this connection may already serve another request: only `answer` is ours.
        if answer.status == 0:
            assert answer.error is not None
            raise answer.error
        if self._answer is answer:
            self.phase_deadline = NEVER
        return answer

    async def _write_slices(self, transport: asyncio.Transport, head: bytes, body: bytes) -> None:
        transport.write(head)
        view = memoryview(body)
        answer = self._answer
        assert answer is not None
        for offset in range(0, len(body), WHOLE_WRITE_BYTES):
            if self._paused_writing and self._answer is answer:
                self._write_waiter = self.loop.create_future()
                try:
                    await self._write_waiter
                finally:
                    self._write_waiter = None
            # RFC 9112, 9.5: a final answer of an error kind before the body's end means that the
            # rest will not be read. Other early answers may wait for it, so it goes on.
            if self._answer is not answer or answer.status >= 400:
                return
            transport.write(view[offset : offset + WHOLE_WRITE_BYTES])
        self._written = True

    def expect_more(self) -> None:
        """The reader waits for the next bytes: the deadline between bytes runs."""
        self.phase_deadline = self.loop.time() + self._read_timeout_s

    def resume(self) -> None:
        """The reader has taken everything."""
        if self._paused_reading:
            self._paused_reading = False
            if self.transport is not None:
                self.transport.resume_reading()

    def fail(self, message: str, cause: UpstreamCause) -> None:
        """Close at once; a request under way fails. Idempotent."""
        answer, self._answer = self._answer, None
        self.phase_deadline = self.total_deadline = NEVER
        if answer is not None:
            answer.fail(UpstreamError(message, sent=True, cause=cause))
            self._wake_writer()
        if self.transport is not None:
            self.transport.abort()

    def expire(self) -> None:
        """A deadline has passed."""
        phase = "between bytes" if self._head_done else "before its head"
        self.fail(f"the response took too long {phase}", "timeout")

    def _wake_writer(self) -> None:
        waiter = self._write_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            # Nothing was asked: a late error page, or an attempt to slip in an answer.
            self.fail("spoke unasked", "malformed")
            return
        if not self._head_done:
            self._head_bytes += len(data)
        try:
            assert self._parser is not None
            self._parser.feed_data(data)
            if self._arrived:
                self._hand_over(answer)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self._arrived:
                self._hand_over(answer)
            # A parser that fails behind a whole message: the answer stands, the connection not.
            if self._message_done:
                self._finish(reusable=False)
            else:
                self.fail("sent a malformed response", "malformed")
            return
        if self._message_done:
            self._finish(reusable=self._written and self._keep_alive)
        elif not self._head_done and self._head_bytes > HEAD_MOST_BYTES:
            self.fail("sent too large a head", "malformed")

    def _hand_over(self, answer: PooledAnswer) -> None:
        """Give the reader the pieces of body that the parser has found."""
        waiting = 0 if self._bodyless else answer.feed(self._arrived)
        self._arrived.clear()
        if waiting > BUFFER_HIGH_BYTES and not self._paused_reading and self.transport is not None:
            self._paused_reading = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        # RFC 9112, 6.3, rule 8: without a length the body ends with the connection.
        if self._answer is not None and self._head_done and self._until_close:
            self._finish(reusable=False)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._parser = None
        where = "in the middle of its response" if self._head_done else "before it responded"
        if exc is None:
            self.fail(f"closed the connection {where}", "closed")
        else:
            self.fail(f"reset the connection {where}", "reset")
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._paused_writing = True

    def resume_writing(self) -> None:
        self._paused_writing = False
        self._wake_writer()

    # The parser's callbacks

    def on_message_begin(self) -> None:
        if self._message_done and not self._bodyless:
            raise _Malformed("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._field_count += 1
        self._field_bytes += len(name) + len(value)
        if self._field_count > HEAD_MOST_FIELDS or self._field_bytes > HEAD_MOST_BYTES:
            raise _Malformed("too many fields")
        if self._head_done:
            return  # a trailer: dropped
        framing = _framing_name(name)
        if framing is not None:
            if framing == b"content-length":
                self._until_close = False
            else:
                if framing == b"transfer-encoding":
                    if value.lower() != b"chunked":
                        raise _Malformed("a transfer coding that we did not ask for")
                    self._until_close = False
                    self.streamed = True
                elif framing == b"connection":
                    self._connection_options = value.lower()
                return
        assert self._answer is not None
        self._answer.headers.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        answer = self._answer
        if answer is None:
            raise _Malformed("closed meanwhile")
        status = self._parser.get_status_code()
        if status < 200:
            # RFC 9110, 15.2: interim answers are skipped; 101 was never asked for.
            self._interim_count += 1
            if status == 101 or self._interim_count > INTERIM_MOST:
                raise _Malformed("interim answers that we did not ask for")
            answer.headers.clear()
            self._until_close = True
            self._connection_options = None
            return
        options = self._connection_options
        if options is not None and options not in (b"keep-alive", b"close"):
            named = {option.strip() for option in options.split(b",")}
            answer.headers[:] = [f for f in answer.headers if f[0].lower() not in named]
        answer.status = status
        self._head_done = True
        if self._bodyless:
            # The parser cannot be told: it would wait for the body that the head speaks of.
            self._message_done = True
        elif status == 204 or status == 304:
            self._until_close = False
        answer.wake()
        self._wake_writer()

    def on_message_complete(self) -> None:
        if self._head_done:
            assert self._parser is not None
            self._message_done = True
            # The parser forgets how the message was framed right after this callback.
            self._keep_alive = self._parser.should_keep_alive() and not self._bodyless

    def _finish(self, *, reusable: bool) -> None:
        answer, self._answer = self._answer, None
        self.phase_deadline = self.total_deadline = NEVER
        self.resume()
        if answer is not None:
            answer.finish()
        self._wake_writer()
        if self.transport is None:
            return
        if reusable and not self.transport.is_closing():
            self._on_free(self)
        elif self._written:
            self.transport.close()
        else:
            self.transport.abort()  # close would wait for a body that nobody reads
