"""A few connections that one process keeps for reading, so that a question costs one round trip."""

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import orjson
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.json import set_json_loads

from gateway.domain.stores import StoreMissing
from gateway.exporter.sinks.options import PostgresOptions
from gateway.exporter.sinks.postgres_schema import quoted
from gateway.exporter.sinks.postgres_url import shown

Connection = psycopg.Connection[tuple[Any, ...]]

MAX_IDLE: Final = 2
MAX_IDLE_S: Final = 60.0
MARGIN_S: Final = 2.0
"""Beyond a statement's time-out, which the server keeps."""
_NETWORK: Final = {
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""A peer that is gone is noticed within half a minute, unless the URL says otherwise."""

_HAS_STORE: Final = b"""
    SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = %s AND relname = 'events'
"""
"""Asked of the catalogue, so that a store that may not be read is not taken for one that is not there."""


class PostgresPool:
    """Thread-safe. Connections are made when there is no idle one; at most `MAX_IDLE` are kept."""

    def __init__(self, options: PostgresOptions) -> None:
        self.options = options
        self._lock = threading.Lock()
        self._idle: list[tuple[Connection, float]] = []

    @contextmanager
    def lent(self) -> Iterator[Connection]:
        """Lend a connection to the block. Raises StoreMissing, also for an error of the database in it."""
        connection, _ = self.take()
        try:
            yield connection
        except psycopg.Error as error:
            connection.close()
            raise StoreMissing(explained(self.options, error)) from error
        except BaseException:
            connection.close()
            raise
        self.give_back(connection)

    def take(self) -> tuple[Connection, bool]:
        """A connection that has just answered, and whether there is a store. Raises StoreMissing."""
        while (kept := self._pop()) is not None:
            connection, since_s = kept
            if time.monotonic() - since_s < MAX_IDLE_S and _quiet(connection):
                try:
                    return connection, self._probe(connection)
                except psycopg.Error:  # the server was restarted, or the network is another one
                    pass
            connection.close()
        try:
            connection = connect(self.options, read_only=True)
            return connection, self._probe(connection)
        except (psycopg.Error, OSError) as error:
            raise StoreMissing(explained(self.options, error)) from error

    def _probe(self, connection: Connection) -> bool:
        with bounded(connection, self.options):
            return has_store(connection, self.options.schema)

    def give_back(self, connection: Connection) -> None:
        """Keep it for the next question, or close it."""
        idle = psycopg.pq.TransactionStatus.IDLE
        if not connection.closed and connection.info.transaction_status == idle:
            with self._lock:
                if len(self._idle) < MAX_IDLE:
                    self._idle.append((connection, time.monotonic()))
                    return
        connection.close()

    def _pop(self) -> tuple[Connection, float] | None:
        with self._lock:
            return self._idle.pop() if self._idle else None


def connect(options: PostgresOptions, *, read_only: bool) -> Connection:
    """A connection that commits each statement, with this release's tables in its search path. Raises
    psycopg.Error."""
    given: dict[str, Any] = {
        **_NETWORK,
        "connect_timeout": str(max(2, options.connect_timeout_ms // 1000)),
        "application_name": "creditgate",
        **conninfo_to_dict(options.url),
    }
    # Never prepared: a plan for values that are known leaves out the conditions that are not asked for.
    connection = psycopg.connect(make_conninfo(**given), autocommit=True, prepare_threshold=None)
    set_json_loads(orjson.loads, connection)
    setup = (
        f"SET search_path = {quoted(options.schema)}; SET statement_timeout = {options.timeout_ms};"
        f" SET default_transaction_read_only = {'on' if read_only else 'off'}"
    )
    connection.execute(setup.encode())
    return connection


def has_store(connection: Connection, schema: str) -> bool:
    """Whether the tables have been made. Raises psycopg.Error."""
    return connection.execute(_HAS_STORE, (schema,)).fetchone() is not None


@contextmanager
def bounded(connection: Connection, options: PostgresOptions) -> Iterator[None]:
    """Cut the connection if the block takes longer than a statement may: a server that is suspended does
    not end one, and libpq waits without limit."""
    timer = threading.Timer(options.timeout_ms / 1000 + MARGIN_S, _cut, (connection,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut(connection: Connection) -> None:
    with (
        contextlib.suppress(psycopg.Error, OSError),
        socket.socket(fileno=os.dup(connection.fileno())) as wire,
    ):
        wire.shutdown(socket.SHUT_RDWR)


def explained(options: PostgresOptions, error: BaseException) -> str:
    """What failed, for people, without secrets."""
    said = " ".join(str(error).split())
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.InsufficientPrivilege):
        said += "; the role needs USAGE on the schema and SELECT on its tables"
    return f"the store at {shown(options.url, options.schema)} cannot be used: {said}"


def _quiet(connection: Connection) -> bool:
    """Whether the server has said nothing since the last answer: it says so when it closes."""
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)
