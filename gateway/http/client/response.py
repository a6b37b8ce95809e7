"""An answer of an upstream while it arrives: the reader's side of one connection.

Invariants: what has arrived is readable before the error that cut it; an answer lets go of its
connection at its last byte, for that connection may carry another request at once; the deadline
between bytes runs only while the reader waits.
"""

import asyncio
import math
from typing import TYPE_CHECKING, Final

from gateway.http.interface import UpstreamError

if TYPE_CHECKING:
    from gateway.http.client.connection import UpstreamConnection

NEVER: Final = math.inf


class PooledAnswer:
    """An `Answer` while it arrives. It outlives its connection, which may serve another by then."""

    __slots__ = ("_connection", "_pieces", "_size", "_waiter", "done", "error", "headers", "status")

    def __init__(self, connection: "UpstreamConnection") -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.done = False
        self.error: UpstreamError | None = None
        self._connection: UpstreamConnection | None = connection
        self._pieces: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "failed" if self.error else "whole" if self.done else "arriving"
        return f"<PooledAnswer {self.status} {state}, {self._size} bytes waiting>"

    async def read(self) -> bytes:
        """All body bytes that have arrived, b"" at the end. One reader. Raises UpstreamError."""
        while True:
            pieces = self._pieces
            if pieces:
                data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                pieces.clear()
                self._size = 0
                if self._connection is not None:
                    self._connection.resume()
                return data
            if self.error is not None:
                raise self.error
            if self.done:
                return b""
            connection = self._connection
            assert connection is not None, "an answer without an end has a connection"
            connection.expect_more()
            try:
                await self.news()
            finally:
                if self._connection is connection:
                    connection.phase_deadline = NEVER

    async def news(self) -> None:
        """Wait for the next thing to happen: the head, body bytes, the end, an error."""
        assert self._waiter is None, "an answer has one reader"
        assert self._connection is not None, "nothing more will happen to this answer"
        self._waiter = self._connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def close(self) -> None:
        """Stop here: a connection that still carries this answer is closed. Idempotent."""
        connection = self._connection
        if connection is not None:
            connection.fail("closed by the gate before its end", "stopped")

    # The connection's side

    def feed(self, pieces: list[bytes]) -> int:
        """Take pieces of the body; returns how many bytes wait for the reader."""
        self._pieces += pieces
        self._size += len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        self.wake()
        return self._size

    def finish(self) -> None:
        self.done = True
        self._connection = None
        self.wake()

    def fail(self, error: UpstreamError) -> None:
        self.error = error
        self._connection = None
        self.wake()

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
