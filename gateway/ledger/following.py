"""How every connection of a process follows its server when that one is the primary no more.

After a failover the old primary still answers on the connections it has: reads from a copy that
lags, `READONLY` to whatever writes.
A connection that gets one of these (or `MASTERDOWN`, `LOADING`) notes it in `Moves`, and then all
of them reconnect: the address, or what is behind it, leads to the new primary.
Sentinels say more: that another server has taken over. Then nothing the old one still answers
counts, if it answers at all, and its connections are dropped at once.

Invariants: at a refusal what is in flight is left alone, so no outcome becomes unknown by it; a
connection goes when its answer has come. At a switch what is in flight has an unknown outcome. A
connection that was made after the news is not touched by the same news.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol
from weakref import WeakMethod, WeakSet

import redis.asyncio
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    BusyLoadingError,
    MasterDownError,
    ReadOnlyError,
    ResponseError,
)

from gateway.ledger.client.errors import LedgerUnavailable

_MOVED: Final = (ReadOnlyError, MasterDownError, BusyLoadingError)


class Droppable(Protocol):
    """A connection, or who has one."""

    def drop(self, reason: str) -> None:
        """Close at once, whatever is in flight."""
        ...


class Finder(Protocol):
    """Knows which server is the primary."""

    async def find(self) -> tuple[str, int, int]:
        """Host, port, and the `Moves.count` as of which that is so. Raises NotPrimary."""
        ...


class NotPrimary(redis.exceptions.ConnectionError, LedgerUnavailable):
    """No primary is known, or the server that should be it is none. Nothing was sent."""

    def __init__(self, message: str, *, code: str = "") -> None:
        LedgerUnavailable.__init__(self, message, code=code)


class Moves:
    """Counts the times that the server was found not to be the primary; tells those that follow."""

    def __init__(self) -> None:
        self.count = 0
        self._followers: list[WeakMethod[Callable[[], None]]] = []
        self._droppable: WeakSet[Droppable] = WeakSet()

    def follow(self, reconnect: Callable[[], None]) -> None:
        """Have a bound method called at each move, as long as its object lives."""
        self._followers.append(WeakMethod(reconnect))

    def drop_at_switch(self, connection: Droppable) -> None:
        """Have it dropped when another server takes over, as long as it lives."""
        self._droppable.add(connection)

    def moved(self, known: int | None = None) -> None:
        """The server is not the primary.

        known: `count` when the connection that heard it was made; None where none is newer
        """
        if known is not None and known < self.count:
            return
        self.count += 1
        self._followers = [each for each in self._followers if each() is not None]
        for each in self._followers:
            reconnect = each()
            if reconnect is not None:
                reconnect()

    def switched(self, reason: str) -> None:
        """Another server has taken over: drop every connection.

        reason: for those who wait for an answer
        """
        self.count += 1
        for each in list(self._droppable):
            each.drop(reason)


class _Following:
    """What is added to each of redis-py's kinds of connection."""

    def __init__(
        self, *, moves: Moves, shown_as: str, finder: Finder | None = None, **arguments: Any
    ) -> None:
        """finder: says where to connect; None where the address is fixed"""
        super().__init__(**arguments)
        self._moves = moves
        self.known_moves = moves.count
        """`Moves.count` when it set out for the server that it is connected to."""
        self._finder = finder
        self._shown_as = shown_as
        moves.drop_at_switch(self)

    async def connect_check_health(self, *arguments: Any, **options: Any) -> None:
        """Find the server, connect and sign in."""
        connection: Any = super()
        own: Any = self
        if not own.is_connected:
            self.known_moves = self._moves.count
            if self._finder is not None:
                own.host, own.port, self.known_moves = await self._finder.find()
        await connection.connect_check_health(*arguments, **options)

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Sign in, and say a name for CLIENT LIST where that is permitted."""
        connection: Any = super()
        await connection.on_connect_check_health(check_health)
        own: Any = self
        await own.send_command("CLIENT", "SETNAME", self._shown_as, check_health=False)
        with suppress(ResponseError):  # the name is a courtesy: without the right to it, without it
            await own.read_response()
        if self._finder is not None:
            await self._check_role()

    async def _check_role(self) -> None:
        """Sentinels may name a server that was replaced and does not know it, or knows it before
        them. INFO, not ROLE: it is needed anyway, and ACL users often lack ROLE."""
        own: Any = self
        await own.send_command("INFO", "replication", check_health=False)
        said = await own.read_response(disable_decoding=True)
        if b"role:master" not in bytes(said).split():
            raise NotPrimary(
                f"{own.host}:{own.port}, which the sentinels name as the primary, is a replica;"
                " it takes no writes (READONLY)",
                code="READONLY",
            )

    def drop(self, reason: str) -> None:  # noqa: ARG002 - redis-py words the error itself
        """Close at once: whoever waits gets redis-py's ConnectionError."""
        own: Any = self
        if own._writer is not None:
            own._writer.transport.abort()

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """The next reply; an error that says that the server is no primary makes all reconnect."""
        connection: Any = super()
        try:
            return await connection.read_response(*arguments, **options)
        except _MOVED:
            self._moves.moved(self.known_moves)
            raise

    def should_reconnect(self) -> bool:
        """Whether it must not be used again as it is."""
        connection: Any = super()
        return bool(self.known_moves < self._moves.count or connection.should_reconnect())


class FollowingConnection(_Following, Connection):
    """Over TCP."""


class FollowingSSLConnection(_Following, SSLConnection):
    """Over TLS."""


class FollowingUnixConnection(_Following, UnixDomainSocketConnection):
    """Over a unix socket."""


FOLLOWING: Final[dict[type[Any], type[Any]]] = {
    Connection: FollowingConnection,
    SSLConnection: FollowingSSLConnection,
    UnixDomainSocketConnection: FollowingUnixConnection,
}
"""redis-py's kind of connection → ours."""


class FollowingPool(redis.asyncio.BlockingConnectionPool):
    """Hands out no connection that was made before the last move."""

    async def ensure_connection(self, connection: Any) -> None:
        """Connect; reconnect if the server has moved since."""
        if connection.should_reconnect():
            await connection.disconnect()
        await super().ensure_connection(connection)


def is_left(connection: Any) -> bool:
    """Whether a connection that is never given back (a subscription's) has to be given up."""
    return isinstance(connection, _Following) and connection.should_reconnect()
