"""The small HTTP interface between the flow and whichever server and client carry it.

`server.py` implements `Request` and `Exchange` (client side), `upstream.py` implements
`Upstream` and `Answer` (provider side). The flow knows only what stands here.
"""

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, Protocol

Headers = Sequence[tuple[bytes, bytes]]
"""Raw header fields in order; names as they came (compare lower-cased)."""


_FORBIDDEN: Final = re.compile(rb"[\r\n\0]")


def encode_fields(fields: Iterable[tuple[str | bytes, str | bytes]]) -> bytes:
    """Encode header fields as lines, each with its CR LF (RFC 9112, 5).

    Raises ValueError for CR, LF or NUL in a name or a value: they would begin another field.
    """
    lines = []
    for name, value in fields:
        raw = name if isinstance(name, bytes) else name.encode("latin-1")
        content = value if isinstance(value, bytes) else value.encode("latin-1")
        if _FORBIDDEN.search(raw) or _FORBIDDEN.search(content):
            raise ValueError(f"a header field must not have CR, LF or NUL: {raw!r}")
        lines.append(b"%b: %b\r\n" % (raw, content))
    return b"".join(lines)


class ClientGone(Exception):
    """The client closed its connection, or reads so slowly that it was given up."""


class BodyError(Exception):
    """The request's body cannot be read. kind is a RefusalKind: timeout, too_large, …"""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Exchange(ABC):
    """One request and the answer to it. Header names are looked up lower-cased."""

    method: str
    path: str
    """Raw path as sent, without the query; the server has refused what is not origin-form."""
    query: str
    remote: str
    """Peer address, "127.0.0.1" or "" for a unix socket."""
    status: int = 0
    """Status of the answer, 0 until it has begun."""
    also: tuple[tuple[str, str], ...] = ()
    """Header fields that the answer carries whoever gives it: the handler, or a refusal."""

    @abstractmethod
    def header(self, name: str) -> str | None:
        """The value of a header, None when absent; name in lower case."""

    @abstractmethod
    def header_values(self, name: str) -> list[str]:
        """All values of a header that may stand more than once."""

    @abstractmethod
    def headers(self) -> list[tuple[str, str]]:
        """All header fields in order, names as sent."""

    @abstractmethod
    async def read_body(self, limit_bytes: int) -> bytes:
        """The whole body, within the server's body deadline. Raises BodyError, ClientGone."""

    @abstractmethod
    async def start(
        self, status: int, headers: Sequence[tuple[str, str]], length: int | None
    ) -> None:
        """Send status and headers; length None streams chunked. Raises ClientGone."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send body bytes, waiting while the client's buffer is full. Raises ClientGone."""

    @abstractmethod
    async def end(self) -> None:
        """Complete the answer. Raises ClientGone."""

    @abstractmethod
    def abort(self) -> None:
        """Close the connection without completing the answer, so that the client sees a cut."""

    @abstractmethod
    def client_gone(self) -> bool:
        """Whether the connection is known to be closed."""

    @abstractmethod
    def on_gone(self, callback: Callable[[], None]) -> None:
        """Call back once when the client's connection is lost before the handler has returned, at
        once if it is lost already. The handler itself is never interrupted; the last callback
        given counts.
        """

    def limit_after_gone(
        self, limit_ms: int, stop: Callable[[], object], gone: Callable[[], object] | None = None
    ) -> None:
        """Call `gone` when the client goes, and `stop` (idempotent) limit_ms after it."""

        def begin() -> None:
            if gone is not None:
                gone()
            asyncio.get_running_loop().call_later(limit_ms / 1000, stop)

        self.on_gone(begin)

    async def answer(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """Send a whole answer at once. Servers may do it in one write. Raises ClientGone."""
        await self.start(status, headers, len(body))
        if body:
            await self.write(body)
        await self.end()


UpstreamCause = Literal[
    "dns",  # its name does not resolve
    "refused",  # nobody listens there
    "unreachable",  # no way to its address
    "tls",  # the handshake failed: certificate, name, version
    "timeout",  # a deadline of the configuration passed
    "reset",  # it broke the connection
    "closed",  # it closed the connection too early
    "malformed",  # what it sent is not one HTTP response
    "busy",  # the gate has no connection free
    "stopped",  # the gate closed the connection
    "auth",  # it refused the gate's credential
]
"""What failed at an upstream: in the log, on the event, and as a metric's label."""


class UpstreamError(Exception):
    """The upstream gave no complete response. The message is the gate's own and names no secret.

    sent: it may have the request
    """

    def __init__(self, message: str, *, sent: bool, cause: UpstreamCause) -> None:
        super().__init__(message)
        self.sent = sent
        self.cause: UpstreamCause = cause

    @property
    def timeout(self) -> bool:
        """Whether a deadline passed."""
        return self.cause == "timeout"


class UpstreamAuthError(UpstreamError):
    """The upstream refused the gate's credential. status: 401 or 403."""

    def __init__(self, status: int) -> None:
        super().__init__(
            f"the upstream refused the gate's credential ({status})", sent=True, cause="auth"
        )
        self.status = status


class CancelledUnsent(asyncio.CancelledError):
    """A send was cancelled before the first byte left: the upstream has heard nothing."""


class Answer(Protocol):
    """An upstream's answer while it arrives."""

    status: int
    headers: list[tuple[bytes, bytes]]
    """As sent, without hop-by-hop fields."""

    @property
    def done(self) -> bool:
        """Its last byte has come, though perhaps not been read."""
        ...

    async def read(self) -> bytes:
        """The next body bytes as they came (all that has arrived), b"" at the end.

        Raises UpstreamError when the connection breaks or a deadline passes.
        """
        ...

    def close(self) -> None:
        """Give the connection back when the body was read whole, else close it. Idempotent."""
        ...


class Upstream(Protocol):
    """One origin, with its pool of connections."""

    name: str

    async def send(self, method: str, path: str, headers: Headers, body: bytes) -> Answer:
        """Send a request, wait for the answer's head. Never resends anything that may have
        reached the upstream. Raises UpstreamError; CancelledUnsent when it is cancelled
        before anything was sent.
        """
        ...

    async def close(self) -> None: ...
