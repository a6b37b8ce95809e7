"""The channel between the supervisor and a child: calls in one direction, answers in the other.

A frame is its length (32 bits, big-endian) and a msgpack array: `[number, verb, body]` from
the supervisor, `[number, ok, body]` from the child. What is not plain data (settings) travels
pickled inside a body, from the supervisor to the child only: a child's bytes are never
unpickled. End of file on the channel means to either side that the other is gone.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgpack

_LENGTH: Final = struct.Struct(">I")
_MOST_BYTES: Final = 256 * 1024 * 1024

Handler = Callable[[Any], Awaitable[Any]]


class ChildGone(Exception):
    """The child ended, or its channel broke, before it answered."""


class ChildRefused(Exception):
    """The child answered that it could not do what it was asked; the message says why."""


class ControlClient:
    """The supervisor's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._next = 0
        self._open: dict[int, asyncio.Future[Any]] = {}
        self._gone = False
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def over(cls, sock: socket.socket) -> "ControlClient":
        """A client on one end of a socket pair, which it then owns."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    async def call(self, verb: str, body: Any = None, *, timeout_s: float) -> Any:
        """Ask the child and return its answer. Raises ChildGone, ChildRefused, TimeoutError."""
        if self._gone:
            raise ChildGone(verb)
        self._next += 1
        number = self._next
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._open[number] = answer
        try:
            self._writer.write(_frame([number, verb, body]))
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            self._open.pop(number, None)

    async def close(self) -> None:
        """Close the channel, which the child takes for our end. Idempotent."""
        self._reading.cancel()
        self._writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(self._reading, return_exceptions=True)
            await self._writer.wait_closed()

    async def _read(self) -> None:
        try:
            while True:
                number, ok, body = await _read_frame(self._reader)
                answer = self._open.get(number)
                if answer is not None and not answer.done():
                    if ok:
                        answer.set_result(body)
                    else:
                        answer.set_exception(ChildRefused(str(body)))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._gone = True
            for answer in self._open.values():
                if not answer.done():
                    answer.set_exception(ChildGone("the process ended"))


class ControlServer:
    """The child's end: runs the handler of each verb as it is called."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, sock: socket.socket) -> None:
        """Serve until the supervisor's end is closed, then return.

        A handler's exception of type ChildRefused is the answer; any other is a bug and its
        type alone is answered.
        """
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        try:
            while True:
                number, verb, body = await _read_frame(reader)
                task = asyncio.create_task(self._answer(writer, number, verb, body))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def finish(self) -> None:
        """Wait until the calls that came have been answered."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=1)

    async def _answer(
        self, writer: asyncio.StreamWriter, number: int, verb: str, body: Any
    ) -> None:
        try:
            reply = [number, True, await self._handlers[verb](body)]
        except ChildRefused as error:
            reply = [number, False, str(error)]
        except Exception as error:
            reply = [number, False, type(error).__name__]
        with contextlib.suppress(OSError):
            writer.write(_frame(reply))
            await writer.drain()


def _frame(message: Any) -> bytes:
    packed: bytes = msgpack.packb(message)
    if len(packed) > _MOST_BYTES:
        raise ValueError(f"a control message of {len(packed)} bytes is too large")
    return _LENGTH.pack(len(packed)) + packed


async def _read_frame(reader: asyncio.StreamReader) -> Any:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > _MOST_BYTES:
        raise ConnectionError("the frame's length is absurd")
    return msgpack.unpackb(await reader.readexactly(length), strict_map_key=False)
