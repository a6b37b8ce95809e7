"""The small HTTP interface between the flow and whichever server and client carry it.

`server/` implements `Exchange` (client side); the provider side is `upstream_interface`. The flow
knows only what these two files define, and imports both from here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from gateway.http.breaker import Breaker as Breaker
from gateway.http.upstream_interface import BodyTransform as BodyTransform
from gateway.http.upstream_interface import CancelledUnsent as CancelledUnsent
from gateway.http.upstream_interface import FieldNames as FieldNames
from gateway.http.upstream_interface import Upstream as Upstream
from gateway.http.upstream_interface import UpstreamAuthError as UpstreamAuthError
from gateway.http.upstream_interface import UpstreamCause as UpstreamCause
from gateway.http.upstream_interface import UpstreamError as UpstreamError
from gateway.http.upstream_interface import UpstreamResponse as UpstreamResponse

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
    async def start(
        self, status: int, fields: bytes, length: int | None, *, more: bool = False
    ) -> None:
        """Send the status and the fields, as `encode_fields` makes them, and begin the body.

        length: bytes of the body; None streams it chunked
        more:   the caller writes or ends before it waits for anything: the head may leave with that

        Raises ClientGone.
        """

    @abstractmethod
    async def write(self, data: bytes, *, more: bool = False) -> None:
        """Send body bytes, waiting while the client's buffer is full. Raises ClientGone.

        data: b"" sends what has waited for more
        more: as of `start`
        """

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

    async def answer(self, status: int, fields: bytes, body: bytes) -> None:
        """Send a complete response at once. Raises ClientGone."""
        await self.start(status, fields, len(body))
        if body:
            await self.write(body)
        await self.end()
