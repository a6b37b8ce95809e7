"""A listening socket behind TLS: it accepts, shakes hands, and hands over what succeeds.

Invariants: a handshake has a deadline, and only so many run at a time: the oldest makes room for the
next, so that connections that send nothing use up neither descriptors nor places of clients. Each
handshake uses the context that is in force when its connection is accepted. The event loop's own server
would keep one context, and could not bound connections that it has not finished shaking hands with.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

_LEAST: Final = 16
_PAUSE_S: Final = 0.1
"""After an accept that failed, mostly for lack of descriptors."""


class TlsListener:
    """Accepts on one socket, from `start` to `close`.

    failed_total: handshakes that failed or took too long: scanners, old clients, wrong certificates
    """

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        context: Callable[[], ssl.SSLContext],
        *,
        at_most: int,
        shake_s: float,
        close_s: float,
    ) -> None:
        """make: the protocol of a connection that has shaken hands. close_s: how long a connection
        that is closed waits for its client's goodbye."""
        self.failed_total = 0
        self._make = make
        self._context = context
        self._at_most = max(_LEAST, at_most)
        self._shake_s = shake_s
        self._close_s = close_s
        self._running: dict[asyncio.Task[None], None] = {}
        self._accepting: asyncio.Task[None] | None = None
        self._sock: socket.socket | None = None

    @property
    def handshake_count(self) -> int:
        """Handshakes that run now."""
        return len(self._running)

    def start(self, sock: socket.socket, backlog: int) -> None:
        """Accept on a bound socket."""
        sock.setblocking(False)
        sock.listen(backlog)
        self._sock = sock
        self._accepting = asyncio.get_running_loop().create_task(self._accept(sock))

    def close(self) -> None:
        """Accept no more and cut what still shakes hands; connections go on. Idempotent."""
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None
        for task in list(self._running):
            task.cancel()
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(sock)
            except OSError:
                await asyncio.sleep(_PAUSE_S)
                continue
            if len(self._running) >= self._at_most:
                oldest = next(iter(self._running))
                del self._running[oldest]
                oldest.cancel()
            task = loop.create_task(self._shake(client))
            self._running[task] = None
            task.add_done_callback(self._ended)
            await asyncio.sleep(0)  # a burst of connections must not hold up those that are open

    async def _shake(self, client: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make,
                client,
                ssl=self._context(),
                ssl_handshake_timeout=self._shake_s,
                ssl_shutdown_timeout=self._close_s,
            )
        except (OSError, TimeoutError):  # ssl.SSLError among them
            self.failed_total += 1
            client.close()
        except asyncio.CancelledError:
            client.close()
            raise

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        if not task.cancelled():
            task.exception()
