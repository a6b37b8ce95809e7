"""What the flow needs of a client to upstreams: `client/` implements `Upstream` and `UpstreamResponse`."""

import asyncio
from typing import Literal, Protocol

from gateway.http.breaker import Breaker

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
    def ready(self) -> bool:
        """Whether `read` returns, or raises, without waiting."""
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
    """One origin, with its pool of connections.

    breaker: whether requests may be sent to it; its user asks, and notes how they end
    """

    name: str
    breaker: Breaker

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
