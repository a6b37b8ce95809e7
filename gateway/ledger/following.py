"""How every connection of a process follows its server when that one is the primary no more.

After a failover the old primary still answers on the connections it has: reads from a copy that
lags, `READONLY` to whatever writes.
A connection that gets one of these (or `MASTERDOWN`, `LOADING`) notes it in `Moves`, and then all
of them reconnect: the address, or what is behind it, leads to the new primary.

Invariants: what is in flight is left alone, so no outcome becomes unknown by this; a connection goes when
its answer has come. A connection that was made after the news is not touched by the same news.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from weakref import WeakMethod

import redis.asyncio
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    BusyLoadingError,
    MasterDownError,
    ReadOnlyError,
    ResponseError,
)

_MOVED: Final = (ReadOnlyError, MasterDownError, BusyLoadingError)


class Moves:
    """Counts the times that the server was found not to be the primary; tells those that follow."""

    def __init__(self) -> None:
        self.count = 0
        self._followers: list[WeakMethod[Callable[[], None]]] = []

    def follow(self, reconnect: Callable[[], None]) -> None:
        """Have a bound method called at each move, as long as its object lives."""
        self._followers.append(WeakMethod(reconnect))

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


class _Following:
    """What is added to each of redis-py's kinds of connection."""

    def __init__(self, *, moves: Moves, shown_as: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._moves = moves
        self._known = moves.count
        self._shown_as = shown_as

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Sign in, and say a name for CLIENT LIST where that is permitted."""
        self._known = self._moves.count
        connection: Any = super()
        await connection.on_connect_check_health(check_health)
        own: Any = self
        await own.send_command("CLIENT", "SETNAME", self._shown_as, check_health=False)
        with suppress(ResponseError):  # the name is a courtesy: without the right to it, without it
            await own.read_response()

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """The next reply; an error that says that the server is no primary makes all reconnect."""
        connection: Any = super()
        try:
            return await connection.read_response(*arguments, **options)
        except _MOVED:
            self._moves.moved(self._known)
            raise

    def should_reconnect(self) -> bool:
        """Whether it must not be used again as it is."""
        connection: Any = super()
        return bool(self._known < self._moves.count or connection.should_reconnect())


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
