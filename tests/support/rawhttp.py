"""Speaking HTTP/1.1 byte by byte, as a client and as an upstream that misbehaves on cue.

`RawClient` sends exactly what it is given. `ScriptedUpstream` hands each request to a coroutine
that has the raw stream, and counts what it got.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RawAnswer:
    """An answer as it stood on the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


class RawClient:
    """A connection that sends what it is told and reads what comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> "RawClient":
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 24))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, within_s: float = 30, head_only: bool = False) -> RawAnswer:
        """The next complete response. Raises asyncio.IncompleteReadError when the server ends before."""
        async with asyncio.timeout(within_s):
            head = await self.reader.readuntil(b"\r\n\r\n")
            line, *fields = head.decode("latin-1").split("\r\n")[:-2]
            headers = {}
            for field_line in fields:
                name, _, value = field_line.partition(":")
                assert name.lower() not in headers, f"{name} twice"
                headers[name.lower()] = value.strip()
            status = int(line.split(" ")[1])
            if head_only or status < 200 or status in (204, 304):
                return RawAnswer(status, headers, b"")
            if headers.get("transfer-encoding") == "chunked":
                return RawAnswer(status, headers, await self._chunks())
            if "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
                return RawAnswer(status, headers, body)
            return RawAnswer(status, headers, await self.reader.read())

    async def _chunks(self) -> bytes:
        pieces = []
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            pieces.append(await self.reader.readexactly(size))
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"
        return b"".join(pieces)

    async def closed(self, *, within_s: float = 30) -> bool:
        """Wait for the server's end of the connection; False when bytes came before it."""
        async with asyncio.timeout(within_s):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    def reset(self) -> None:
        """Close with an RST instead of a FIN."""
        reset(self.writer)

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a stream's socket so that its peer sees an RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def free_socket() -> socket.socket:
    """A socket bound to a free port of the loopback address."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


@dataclass
class Received:
    """A request as an upstream got it."""

    head: bytes
    body: bytes

    @property
    def fields(self) -> list[tuple[str, str]]:
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        return [(n.lower(), v.strip()) for n, _, v in (line.partition(":") for line in lines)]


Respond = Callable[[Received, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool | None]]
"""Answers one request; returns False to close the connection afterwards."""


@dataclass
class ScriptedUpstream:
    """An upstream that answers by `respond`; requests and connections are counted."""

    respond: Respond
    read_body: bool = True
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                received = Received(head, b"")
                length = dict(received.fields).get("content-length", "0")
                if self.read_body:
                    received.body = await reader.readexactly(int(length))
                self.requests.append(received)
                if await self.respond(received, reader, writer) is False:
                    break
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def running(self, **options: object) -> AsyncIterator["ScriptedUpstream"]:
        """Serve on a free port until the block ends."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, **options)  # type: ignore[arg-type]
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()


def ok(body: bytes = b"{}", *fields: bytes) -> bytes:
    """A 200 with a length."""
    extra = b"".join(f + b"\r\n" for f in fields)
    return b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (extra, len(body), body)
