"""A response of an upstream while it arrives: the reader's side of one connection.

Invariants:

- What has arrived can be read before the error that cut it.
- A response drops its connection at its last byte, for that may carry another request at once.
- The deadline between bytes runs only while the reader waits. The pool's sweep keeps it
  (`is_silent`), so that reading a piece costs no look at the clock.
"""

import asyncio
import math
from typing import Final, Protocol

from gateway.http.client.head import Layout, Values
from gateway.http.upstream_interface import BodyTransform, UpstreamError

BUFFER_HIGH_BYTES: Final = 256 * 1024
"""When more than this waits for the reader, the connection stops reading."""


class Carrier(Protocol):
    """The connection that carries a response, as the response sees it."""

    def resume(self) -> None:
        """The reader has taken everything: read on if reading was paused."""
        ...

    def stop(self) -> None:
        """Close the connection in the middle of its response."""
        ...


class CompleteResponse:
    """An `UpstreamResponse` that arrived in one piece: nothing is waited for, nothing can fail."""

    __slots__ = ("_body_at", "names", "raw", "status", "transform", "values")

    complete = True
    ready = True
    in_raw = True
    error = None

    def __init__(self, layout: Layout, values: Values, raw: bytes, body_at: int) -> None:
        """raw: the response as sent; body_at: where its body begins"""
        self.status = layout.status
        self.names = layout.names
        self.values = values
        self.transform: BodyTransform | None = None
        self.raw = raw
        """b"" once the body has been read."""
        self._body_at = body_at

    def __repr__(self) -> str:
        return f"<CompleteResponse {self.status}, {len(self.raw)} bytes waiting>"

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """See `UpstreamResponse.headers`."""
        return list(zip(self.names.names, self.values, strict=True))

    @property
    def done(self) -> bool:
        """See `UpstreamResponse.done`."""
        return self.transform is None or not self.transform.keeps

    def header(self, name: bytes) -> bytes | None:
        """See `UpstreamResponse.header`."""
        at = self.names.index.get(name)
        return None if at is None else self.values[at]

    def take(self) -> bytes:
        """See `UpstreamResponse.take`."""
        data, self.raw = self.raw[self._body_at :], b""
        transform = self.transform
        if transform is None:
            return data
        return (transform.feed(data) if data else b"") + transform.finish()

    async def read(self) -> bytes:
        """See `UpstreamResponse.read`."""
        return self.take()

    def close(self) -> None:
        """See `UpstreamResponse.close`."""


class PooledResponse:
    """An `UpstreamResponse` that arrives in pieces.

    It outlives its connection, which may serve another request by then.
    """

    __slots__ = (
        "_carrier",
        "_pieces",
        "_silent_since",
        "_waiter",
        "complete",
        "error",
        "names",
        "raw",
        "size",
        "status",
        "transform",
        "values",
    )

    in_raw = False

    def __init__(self, layout: Layout, values: Values, carrier: Carrier) -> None:
        self.status = layout.status
        self.names = layout.names
        self.values = values
        self.transform: BodyTransform | None = None
        self.raw = b""
        self.complete = False
        """The last byte of the body has arrived."""
        self.error: UpstreamError | None = None
        self.size = 0
        """Body bytes that wait for the reader of a response that still arrives."""
        self._carrier: Carrier | None = carrier
        self._pieces: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._silent_since = math.inf

    def __repr__(self) -> str:
        state = "failed" if self.error else "complete" if self.complete else "arriving"
        return f"<PooledResponse {self.status} {state}, {self.size} bytes waiting>"

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """See `UpstreamResponse.headers`."""
        return list(zip(self.names.names, self.values, strict=True))

    @property
    def done(self) -> bool:
        """See `UpstreamResponse.done`."""
        return self.complete and (self.transform is None or not self.transform.keeps)

    @property
    def ready(self) -> bool:
        """See `UpstreamResponse.ready`."""
        # A transform may keep all that has arrived.
        return (
            self.complete
            or self.error is not None
            or (self.transform is None and bool(self._pieces))
        )

    def header(self, name: bytes) -> bytes | None:
        """See `UpstreamResponse.header`."""
        at = self.names.index.get(name)
        return None if at is None else self.values[at]

    def take(self) -> bytes:
        """See `UpstreamResponse.take`."""
        pieces = self._pieces
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            size, self.size = self.size, 0
            if size > BUFFER_HIGH_BYTES and self._carrier is not None:
                self._carrier.resume()
        else:
            data = b""
        transform = self.transform
        if transform is not None:
            if data:
                data = transform.feed(data)
            if self.complete:
                data += transform.finish()
        return data

    async def read(self) -> bytes:
        """See `UpstreamResponse.read`."""
        while True:
            pieces = self._pieces
            if len(pieces) == 1 and self.transform is None and self.size <= BUFFER_HIGH_BYTES:
                # The usual piece of a stream: `take` without anything to join or to resume.
                self.size = 0
                return pieces.pop()
            if self.complete:
                return self.take()
            # A transform may keep all of it.
            if pieces and (data := self.take()):
                return data
            if self.error is not None:
                raise self.error
            assert self._waiter is None, "a response has one reader"
            self._waiter = waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            finally:
                self._waiter = None

    def close(self) -> None:
        """See `UpstreamResponse.close`."""
        if self._carrier is not None:
            self._carrier.stop()

    # The connection's side

    def feed(self, piece: bytes) -> None:
        """Add a piece of the body."""
        self._pieces.append(piece)
        self.size += len(piece)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            self._silent_since = math.inf
            waiter.set_result(None)

    def is_silent(self, now: float, most_s: float) -> bool:
        """Return whether the reader has waited for most_s without a byte.

        now: loop time; the wait is noticed when this is first called during it
        """
        if self._waiter is None:
            self._silent_since = math.inf
        elif self._silent_since > now:
            self._silent_since = now
        return self._silent_since + most_s < now

    def finish(self) -> None:
        """The last byte has arrived."""
        self.complete = True
        self._carrier = None
        self.wake()

    def fail(self, error: UpstreamError) -> None:
        """No more will arrive."""
        self.error = error
        self._carrier = None
        self.wake()

    def wake(self) -> None:
        """Let the reader look again."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


Response = CompleteResponse | PooledResponse
