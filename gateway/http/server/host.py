"""What a connection, its server and its exchanges need of each other; none imports another for it."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Protocol

from gateway.http.budget import ByteBudget, Charge
from gateway.http.interface import Exchange
from gateway.http.server.head_memory import HeadMemory
from gateway.http.server.limits import ServerLimits
from gateway.http.server.strictness import Problem

Handler = Callable[[Exchange], Awaitable[None]]


class Stage(IntEnum):
    """Where a connection is; each has its own deadline."""

    IDLE = 0
    """between requests"""
    HEAD = 1
    """a part of a head has arrived"""
    HANDLING = 2
    """the handler runs; without a deadline"""
    BODY = 3
    """the handler waits for the request's body"""
    WRITING = 4
    """the handler waits for a client that reads slowly"""
    ENDING = 5
    """the last response was sent; what arrives is discarded"""


class Wire(Protocol):
    """What an exchange needs of its connection."""

    __slots__ = ()

    transport: asyncio.Transport | None
    remote: str
    writing_paused: bool
    last: bool
    """Whether no request is served behind this one."""
    sized_openings: dict[int, bytes]
    """Status line, date field and `content-length: ` by status; made by `opening`, not for each."""

    def send(self, data: bytes | memoryview) -> None:
        """Hand bytes to the transport. Raises ClientGone."""
        ...

    async def drained(self, waiting_bytes: int = 0) -> None:
        """Wait until the client has read most of what was sent. Raises ClientGone.

        waiting_bytes: what the caller keeps meanwhile, to be sent next
        """
        ...

    async def receive_body(self, limit_bytes: int) -> bytes:
        """Wait for a body that was not complete with its head. Raises BodyError, ClientGone."""
        ...

    def opening(self, status: int) -> bytes:
        """Return the status line and the date field."""
        ...

    def goes_on(self) -> bool:
        """Return whether another request may follow this one."""
        ...

    def is_lost(self) -> bool:
        """Return whether the client is known to be gone."""
        ...

    def abort(self) -> None:
        """Cut the connection."""
        ...


class Client(Protocol):
    """A connection, as the server sees it."""

    __slots__ = ()

    remote: str
    address: str
    stage: Stage
    deadline: float
    task: asyncio.Task[None] | None

    def expire(self) -> None:
        """The stage's deadline has passed."""
        ...

    def finish(self) -> None:
        """Serve no request behind the one in hand; without one, close the connection."""
        ...

    def forget_head(self) -> None:
        """Parse the next head, whatever it equals."""
        ...

    def shed(self) -> None:
        """Close the connection, which has no request in hand, in favour of a new one."""
        ...

    def abort(self) -> None:
        """Cut the connection."""
        ...

    def read_on(self) -> None:
        """Try again to find room in the budget for the body."""
        ...


class Host(Protocol):
    """What a connection needs of its server."""

    limits: ServerLimits
    budget: ByteBudget
    draining: bool
    heads: HeadMemory
    openings: dict[int, bytes]
    """What `opening` has made since the last sweep, by status."""
    sized_openings: dict[int, bytes]
    """The same with `content-length: ` behind it, for responses that may have a body. One object for
    the server's life."""
    handler: Handler
    requests_total: int
    """Requests that have begun."""
    idle_deadline: float
    """Deadline of a connection that becomes idle before the next sweep (loop time)."""
    resting: dict["Client", None]
    """Connections without a request in hand, the longest first; every other one counts as busy."""
    orphans: set["Client"]
    """Lost connections whose handlers still run."""
    starved: set["Client"]
    """Connections whose bodies wait for room in the budget."""
    unread: dict["Client", Charge]
    """Connections whose clients leave their responses unread, the longest first."""

    def admit(self, connection: "Client") -> Problem | None:
        """Count a new connection; returns why it is refused, or None."""
        ...

    def forget(self, connection: "Client") -> None:
        """Stop counting a connection that is lost."""
        ...

    def note_rest(self) -> None:
        """A connection or its handler has ended: wake a drain if it was the last one."""
        ...

    def opening(self, status: int) -> bytes:
        """Return the status line and the date field."""
        ...

    def refusal(self, status: int, message: str) -> bytes:
        """Count a refusal of the HTTP layer and return the complete response to it."""
        ...

    def charge_unread(self, connection: "Client", charge: Charge, size: int) -> bool:
        """Charge bytes that a client leaves unread; False when it has to be cut."""
        ...

    def note_crash(self, error: Exception) -> None:
        """Count and log an error that a handler should not have raised."""
        ...
