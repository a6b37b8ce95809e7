"""A relay between a client and a server's unix socket that can be told to misbehave."""

import asyncio
import contextlib
import ssl
from pathlib import Path


class Relay:
    """Listens on a unix socket (or a TCP port, with TLS if asked) and passes bytes on.

    cut_replies: the server's next reply is swallowed and the connection reset: the command was
                 executed, its answer lost
    mute:        nothing of either direction passes any more; connections stay open
    """

    def __init__(self, server_socket: Path) -> None:
        self._server_socket = server_socket
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut_replies = False
        self.mute = False
        self.replies_cut = 0

    async def listen_unix(self, path: Path) -> None:
        self._server = await asyncio.start_unix_server(self._serve, path)

    async def listen_tcp(self, tls: ssl.SSLContext | None = None) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def reset_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.reset_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(self._server_socket)
        self._writers |= {writer, server_writer}
        there = asyncio.create_task(self._pump(reader, server_writer, is_reply=False))
        back = asyncio.create_task(self._pump(server_reader, writer, is_reply=True))
        self._tasks |= {there, back}
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        for each in (writer, server_writer):
            each.transport.abort()
            self._writers.discard(each)

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, is_reply: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                while self.mute:  # noqa: ASYNC110 - a test's switch
                    await asyncio.sleep(0.01)
                if is_reply and self.cut_replies:
                    self.replies_cut += 1
                    return
                target.write(data)
                await target.drain()
