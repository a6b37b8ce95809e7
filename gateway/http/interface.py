"""The small HTTP interface between the flow and whichever server and client carry it.

`server/` implements `Exchange` (client side), `client/` implements `Upstream` and `UpstreamResponse`
(provider side). The flow knows only what this file defines.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, Literal, Protocol

Headers = Sequence[tuple[bytes, bytes]]
"""Raw header fields in order; names as they came (compare lower-cased)."""

FRAMING_FIELDS: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"date",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Fields that frame or route a message, or describe one connection. Only the server and the client of this
package write them (RFC 9112, 6; RFC 9110, 7.6.1)."""


class ClientGone(Exception):
    """The client closed its connection, or was cut because it read too slowly."""


class BodyError(Exception):
    """The request's body cannot be read. kind is a RefusalKind: timeout, too_large, …"""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


def encode_fields(fields: Iterable[tuple[str | bytes, str | bytes]]) -> bytes:
    """Encode header fields as complete lines, `name: value` and CRLF each; strings as Latin-1.

    Leaves out `FRAMING_FIELDS`. Raises ValueError when a name or value holds CR, LF or NUL, which
    could begin another field (RFC 9110, 5.5), or a character beyond Latin-1.
    """
    lines = []
    for name, value in fields:
        raw = name if isinstance(name, bytes) else name.encode("latin-1")
        if raw.lower() not in FRAMING_FIELDS:
            lines.append(
                b"%b: %b\r\n"
                % (raw, value if isinstance(value, bytes) else value.encode("latin-1"))
            )
    encoded = b"".join(lines)
    count = len(lines)
    if encoded.count(b"\n") != count or encoded.count(b"\r") != count or b"\0" in encoded:
        raise ValueError("a header field holds a line break or NUL")
    return encoded


class RequestHead:
    """What a request's head says. Requests whose heads are equal byte for byte may share one.

    Never changed by the HTTP layer once it is made. Content-Length, the only field in which heads
    that share an object may differ, is not among the fields: see `Exchange.content_length`.

    method, path, query:  path and query raw as sent; the server has refused what is not origin-form
    first_values:         the first value of each field, by its name in lower case
    memo:                 for the flow to keep what it concluded from these bytes; HTTP ignores it
    """

    __slots__ = ("_fields", "first_values", "memo", "method", "path", "query")

    def __init__(
        self, method: str, path: str, query: str, fields: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self._fields = tuple(fields)
        self.first_values: dict[str, str] = {}
        for name, value in self._fields:
            self.first_values.setdefault(name.lower(), value)
        self.memo: object | None = None

    def __repr__(self) -> str:
        return f"<RequestHead {self.method} {self.path}>"

    def header(self, name: str) -> str | None:
        """Return the first value of a field, None when absent; name in lower case."""
        return self.first_values.get(name)

    def header_values(self, name: str) -> list[str]:
        """Return every value of a field in order; name in lower case."""
        if name not in self.first_values:
            return []
        return [value for each, value in self._fields if each.lower() == name]

    def headers(self) -> list[tuple[str, str]]:
        """Return all fields in order, names as sent."""
        return list(self._fields)


class Exchange(ABC):
    """One request and the response to it.

    head:            what the request's head says
    method, path, query: the head's
    content_length:  bytes of the body; 0 without a body, None when the body is chunked
    remote:          peer address, "127.0.0.1", or "" for a unix socket
    owner:           whose share of the byte budget this request's buffers count against; the flow
                     sets it once it has authenticated the request
    status:          status of the response, 0 until it has begun
    also:            encoded field lines that the response carries whoever gives it
    """

    __slots__ = (
        "also",
        "content_length",
        "head",
        "method",
        "owner",
        "path",
        "query",
        "remote",
        "status",
    )

    head: RequestHead
    method: str
    path: str
    query: str
    content_length: int | None
    remote: str
    owner: str
    status: int
    also: bytes

    def header(self, name: str) -> str | None:
        """Return the first value of a header, None when absent; name in lower case."""
        return self.head.first_values.get(name)

    def header_values(self, name: str) -> list[str]:
        """Return every value of a header in order; name in lower case."""
        return self.head.header_values(name)

    def headers(self) -> list[tuple[str, str]]:
        """Return all header fields in order, names as sent."""
        return self.head.headers()

    @abstractmethod
    async def read_body(self, limit_bytes: int) -> bytes:
        """Return the complete body, waiting up to the server's body timeout. Call it once.

        Raises BodyError, ClientGone.
        """

    @abstractmethod
    async def start(self, status: int, fields: bytes, length: int | None) -> None:
        """Send the status and the fields, as `encode_fields` makes them, and begin the body.

        length: bytes of the body; None streams it chunked. Raises ClientGone.
        """

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send body bytes, waiting while the client's buffer is full. Raises ClientGone."""

    @abstractmethod
    async def end(self) -> None:
        """Complete the response. Raises ClientGone."""

    @abstractmethod
    def abort(self) -> None:
        """Cut the connection without completing the response, so that the client notices."""

    @abstractmethod
    def client_gone(self) -> bool:
        """Return whether the connection is known to be closed."""

    @abstractmethod
    def on_gone(self, callback: Callable[[], None]) -> None:
        """Call back once when the client's connection is lost before the handler has returned, at
        once if it is lost already. The server never interrupts the handler. A later call replaces
        the callback.
        """

    def limit_after_gone(
        self, limit_ms: int, stop: Callable[[], object], gone: Callable[[], object] | None = None
    ) -> None:
        """Call `gone` when the client leaves, and `stop` (idempotent) limit_ms after it."""

        self.on_gone(partial(_leave, limit_ms, stop, gone))

    async def answer(self, status: int, fields: bytes, body: bytes) -> None:
        """Send a complete response at once. Raises ClientGone."""
        await self.start(status, fields, len(body))
        if body:
            await self.write(body)
        await self.end()


def _leave(limit_ms: int, stop: Callable[[], object], gone: Callable[[], object] | None) -> None:
    if gone is not None:
        gone()
    asyncio.get_running_loop().call_later(limit_ms / 1000, stop)


UpstreamCause = Literal[
    "dns",  # its name does not resolve
    "refused",  # nothing listens at its address
    "unreachable",  # there is no route to its address
    "tls",  # the handshake failed: certificate, name, version
    "timeout",  # a configured deadline passed
    "reset",  # it reset the connection
    "closed",  # it closed the connection too early
    "malformed",  # what it sent is not one HTTP response
    "busy",  # no connection became free in time, or too many requests wait for one
    "stopped",  # the gate closed the connection
    "auth",  # it refused the gate's credential, or showed it
]
"""What failed at an upstream: in the log, on the event, and as a metric's label."""


class UpstreamError(Exception):
    """The upstream gave no complete response. The message is written here and holds no secret.

    sent: the upstream may have received the request
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
    """A send was cancelled before its first byte left: the upstream has not seen the request."""


class FieldNames:
    """The field names of a message, in order and in lower case.

    Responses of an upstream that name the same fields in the same order share one object, so
    what was concluded from the names can be kept with them.
    """

    __slots__ = ("index", "memo", "names")

    def __init__(self, names: tuple[bytes, ...]) -> None:
        self.names = names
        self.index: dict[bytes, int] = {}
        """Where each name occurs first; the position is also that of its value."""
        for at, name in enumerate(names):
            self.index.setdefault(name, at)
        self.memo: object | None = None
        """What the user of the upstream concluded from these names; HTTP never looks at it."""


class BodyTransform(Protocol):
    """Changes a response's body on its way to the reader."""

    @property
    def keeps(self) -> bool:
        """Whether bytes that were fed wait for those that follow."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; returns those to pass on now. Raises UpstreamError."""
        ...

    def finish(self) -> bytes:
        """The body has ended; returns what was kept. Idempotent."""
        ...


class UpstreamResponse(Protocol):
    """An upstream's response while it arrives; its head is complete.

    Hop-by-hop fields (RFC 9110, 7.6.1) are not among its fields.
    """

    status: int
    names: FieldNames
    values: tuple[bytes, ...]
    """The fields' values, without whitespace around them; one for each of `names.names`."""
    transform: BodyTransform | None
    """Applied to the body as it is read. To be set before anything is read."""
    raw: bytes
    """For `inspect` only: the bytes of the head as sent, and of the body those that came with it."""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The fields in order, names in lower case."""
        ...

    @property
    def done(self) -> bool:
        """Whether the last byte has arrived, though perhaps not been read."""
        ...

    @property
    def in_raw(self) -> bool:
        """Whether `raw` is the complete response, its body exactly as the reader will see it."""
        ...

    def header(self, name: bytes) -> bytes | None:
        """The first value of a field, None when absent; name in lower case."""
        ...

    def take(self) -> bytes:
        """Body bytes that have arrived and were not read, without waiting; b"" when there are none.

        When `done`, this is all that is left. Raises UpstreamError only from `transform`.
        """
        ...

    async def read(self) -> bytes:
        """The next body bytes (all that has arrived), b"" at the end. One reader at a time.

        Raises UpstreamError when the connection breaks or a deadline passes.
        """
        ...

    def close(self) -> None:
        """Close the connection unless the last byte has arrived. Idempotent."""
        ...


class Upstream(Protocol):
    """One origin, with its pool of connections."""

    name: str

    async def send(
        self, method: str, target: str, fields: bytes, body: bytes, *, owner: str = ""
    ) -> UpstreamResponse:
        """Send a request once and wait for the head of its response.

        target: origin-form, with its query
        fields: encoded field lines (`encode_fields`), without those that concern the connection or
                the framing: the upstream adds Host and Content-Length
        owner:  whose request it is; connections are shared out fairly among owners

        Raises UpstreamError; CancelledUnsent when it is cancelled before anything was sent. What
        may have reached the upstream is never sent a second time.
        """
        ...

    async def close(self) -> None: ...
