"""From a Redis URL, or the embedded server's socket, to connections. redis-py does the work.

Two kinds leave here. `Endpoint.client` is a redis-py client for everything off the hot path.
`Endpoint.take_over` lets redis-py's own connection find the server, do TLS, AUTH, SELECT and
CLIENT SETNAME, then hands its transport to a protocol of ours for the hot path.

Invariants:
- nothing is retried here: after a lost reply the outcome is unknown, and only the caller knows
  whether its command is idempotent (redis-py's default would send a script up to eleven times);
- RESP2, so that no push message can come between two replies;
- every connection of an endpoint follows the server when it is the primary no more (`following`);
- no password leaves in a `repr`, a message or a chained exception.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import redis.asyncio
from redis.asyncio.connection import Connection, UnixDomainSocketConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError

from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.following import FOLLOWING, FollowingPool, Moves

URL_OPTIONS: Final = frozenset(
    {
        "db",
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_keyfile",
    }
)
"""Parameters that a URL's query may set. The gate sets the rest (timeouts, protocol, pool)."""


def split_hosts(url: str, schemes: Mapping[str, str]) -> list[str]:
    """`SCHEME://USER@HOST,HOST/…?…` as one URL for each host, of the scheme that `schemes` gives.

    Raises BadLedgerUrl.
    """
    scheme, _, rest = url.partition("://")
    end = next((at for at, letter in enumerate(rest) if letter in "/?#"), len(rest))
    entry, at_sign, hosts = rest[:end].rpartition("@")
    names = hosts.split(",")
    if not all(names):
        raise BadLedgerUrl(
            f"a {scheme}:// URL of the ledger needs HOST:PORT, with commas between them"
        )
    return [f"{schemes[scheme]}://{entry}{at_sign}{name}{rest[end:]}" for name in names]


class Successor(asyncio.Protocol):
    """A protocol that can take over a connection which redis-py has opened."""

    parked: asyncio.StreamWriter | None = None
    """redis-py's stream writer. It closes its transport when it is collected, so whoever owns
    the transport keeps it."""
    known_moves: int = 0
    """`Moves.count` of its endpoint when the connection set out for the server."""


_P = TypeVar("_P", bound=Successor)


class BadLedgerUrl(ValueError):
    """The URL of the ledger's server cannot be used. The message never repeats the URL."""


@dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """Where the ledger's server is and how to enter.

    shown: the address without any secret, for logs and errors
    """

    shown: str
    _arguments: Mapping[str, Any] = field(compare=False)
    _connection_class: type[Any] = field(default=Connection)
    moves: Moves = field(default_factory=Moves, compare=False)
    """What all connections of this endpoint follow."""

    def __repr__(self) -> str:
        return f"Endpoint({self.shown})"

    @property
    def user(self) -> str:
        """As whom it enters."""
        return str(self._arguments.get("username") or "default")

    @property
    def entry(self) -> tuple[str, str]:
        """User and password, for a server that must enter another one; "" for no password."""
        return self.user, str(self._arguments.get("password") or "")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; of a unix socket its path and 0."""
        if "path" in self._arguments:
            return str(self._arguments["path"]), 0
        host, port = self._arguments.get("host", "localhost"), self._arguments.get("port", 6379)
        return str(host), int(port)

    @property
    def host_and_port(self) -> str:
        """The address as it is written in a URL."""
        return _show_address(self._arguments)

    @property
    def database(self) -> int:
        """The number of its database."""
        return int(self._arguments.get("db", 0))

    def at(self, host: str, port: int) -> "Endpoint":
        """Another server that is entered in the same way."""
        arguments = {**self._arguments, "host": host, "port": port}
        scheme = self.shown.partition("://")[0]
        return Endpoint(_show(scheme, arguments), arguments, self._connection_class)

    @classmethod
    def from_url(cls, url: str) -> "Endpoint":
        """Read `redis://`, `rediss://` or `unix://`, with an ACL user if one is needed.

        Raises BadLedgerUrl. TLS verifies the server's certificate and name unless the URL's
        query says otherwise (`ssl_ca_certs=…`, `ssl_check_hostname=no`, `ssl_cert_reqs=none`).
        """
        try:
            parts = urlsplit(url)
            arguments: dict[str, Any] = dict(parse_url(url))
            parts.port  # noqa: B018 - raises for what is not a port
        except ValueError as error:
            # The reason may quote a piece of a password that holds an unescaped / or #.
            scheme_at_fault = "schemes" in str(error)
            raise BadLedgerUrl(
                "the ledger's URL must begin with redis://, rediss:// or unix://"
                if scheme_at_fault
                else "the ledger's URL is malformed (special characters in a user name or "
                "password must be percent-encoded)"
            ) from None
        connection_class = arguments.pop("connection_class", Connection)
        entry = {"host", "port", "path", "username", "password"}
        if unknown := sorted(arguments.keys() - URL_OPTIONS - entry):
            raise BadLedgerUrl(
                f"the ledger's URL has options that are not allowed: {', '.join(unknown)}; "
                f"allowed: {', '.join(sorted(URL_OPTIONS))}"
            )
        if parts.scheme == "unix" and not arguments.get("path"):
            raise BadLedgerUrl("a unix:// URL of the ledger needs the path of a socket")
        if parts.fragment:
            raise BadLedgerUrl("the ledger's URL has a #; in a password write it as %23")
        if parts.scheme != "unix":
            database = parts.path.strip("/")
            if database and not database.isdecimal():
                raise BadLedgerUrl("the path of the ledger's URL must be a database's number")
        return cls(_show(parts.scheme, arguments), arguments, connection_class)

    @classmethod
    def from_socket(cls, path: Path) -> "Endpoint":
        """A server behind a unix socket, without a password: the embedded one."""
        return cls(f"unix://{quote(str(path))}", {"path": str(path)}, UnixDomainSocketConnection)

    def client(
        self,
        *,
        name: str,
        timeout_s: float = 5.0,
        max_connections: int = 8,
        pool_wait_s: float = 1.0,
    ) -> redis.asyncio.Redis:
        """A redis-py client for work off the hot path. Close it with `aclose()`.

        name: shown by CLIENT LIST. timeout_s bounds connecting and each reply; a blocking
        command must ask for less. When all `max_connections` are in use a caller waits
        `pool_wait_s`, then gets redis-py's ConnectionError. Connections idle for 15 s are
        pinged before use.
        """
        pool = FollowingPool(
            max_connections=max_connections,
            timeout=pool_wait_s,
            connection_class=FOLLOWING[self._connection_class],
            **self._settings(name, timeout_s),
            health_check_interval=15,
        )
        return redis.asyncio.Redis.from_pool(pool)

    async def take_over(
        self, protocol_factory: Callable[[], _P], *, name: str, timeout_s: float = 2.0
    ) -> _P:
        """Connect, authenticate, and hand the transport to a new protocol, which is returned.

        The protocol's `connection_made` has been called with the transport. Whoever closes it
        closes that transport. Raises LedgerUnavailable (never unknown: nothing was sent but
        the handshake).
        """
        connection = FOLLOWING[self._connection_class](**self._settings(name, timeout_s))
        try:
            async with asyncio.timeout(timeout_s):
                await connection.connect()
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, LedgerUnavailable):
                raise
            if isinstance(error, TimeoutError | RedisError | OSError):
                raise LedgerUnavailable(self.say(error)) from None
            raise
        return _hand_over(connection, protocol_factory())

    def _settings(self, name: str, timeout_s: float) -> dict[str, Any]:
        return {
            **self._arguments,
            "moves": self.moves,
            "shown_as": name,
            "protocol": 2,
            "driver_info": None,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 0),
        }

    async def follow_switches(self) -> None:
        """Drop every connection as soon as another server takes over. Runs until cancelled.

        Only Sentinels announce it; with a fixed address this waits.
        """
        await asyncio.get_running_loop().create_future()

    def say(self, error: BaseException, what: str = "the ledger") -> str:
        """Why it cannot be entered, without a secret."""
        # On a unix socket redis-py authenticates inside its connect, which wraps the refusal.
        refusals = AuthenticationError | AuthorizationError
        if isinstance(error, refusals) or isinstance(error.__cause__, refusals):
            return f"{what} at {self.shown} refuses the user name or the password"
        if isinstance(error, TimeoutError) and not str(error):
            return f"{what} at {self.shown} cannot be reached: timeout"
        return f"{what} at {self.shown} cannot be reached: {str(error)[:200]}"


def _hand_over(connection: Any, protocol: _P) -> _P:
    """Move redis-py's open transport under another protocol.

    Nothing can have been read ahead: every command of the handshake has been answered, and
    RESP2 pushes nothing.
    """
    reader, writer = connection._reader, connection._writer
    connection._reader = connection._writer = None
    assert not reader._buffer, "the server spoke out of turn"
    transport = writer.transport
    protocol.parked = writer
    protocol.known_moves = connection.known_moves
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    return protocol


def _show(scheme: str, arguments: Mapping[str, Any]) -> str:
    if scheme == "unix":
        return f"unix://{quote(arguments['path'])}"
    user = f"{quote(arguments['username'], safe='')}@" if arguments.get("username") else ""
    return f"{scheme}://{user}{_show_address(arguments)}/{arguments.get('db', 0)}"


def _show_address(arguments: Mapping[str, Any]) -> str:
    host = arguments.get("host", "localhost")
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{arguments.get('port', 6379)}"
