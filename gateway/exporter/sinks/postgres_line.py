"""One connection to Postgres that heals itself, and what its errors mean."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from asyncpg import Connection, Record

from gateway.exporter.sink import SinkUnavailable
from gateway.exporter.sinks.options import PostgresOptions
from gateway.exporter.sinks.postgres_schema import quoted
from gateway.exporter.sinks.postgres_url import for_asyncpg, shown

MIN_VERSION: Final = 13

NOT_STORABLE: Final = (
    asyncpg.DataError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.IntegrityConstraintViolationError,
    ValueError,
    OverflowError,
    TypeError,
)
"""What the server and the driver raise for a value, not for a connection."""


class Line:
    """A connection that is opened when it is first used and again after a failure. One task uses it at a
    time; the others wait."""

    def __init__(self, options: PostgresOptions, *setup: str) -> None:
        """setup: statements for each new connection"""
        self._options = options
        self._setup = setup
        self._lock = asyncio.Lock()
        self._connection: Connection[Record] | None = None

    @asynccontextmanager
    async def use(self) -> AsyncIterator["Connection[Record]"]:
        """Give the connection to the block. An error that leaves the block closes it, because nothing is
        known of its state. Raises SinkUnavailable for every error of the driver.
        """
        async with self._lock:
            try:
                connection = self._connection
                if connection is None or connection.is_closed():
                    connection = await self._connect()
                yield connection
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                self._drop()
                raise SinkUnavailable(self._explained(error)) from error
            except BaseException:
                self._drop()
                raise

    async def close(self) -> None:
        """Close the connection. Idempotent; `use` may follow."""
        async with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                try:
                    await connection.close(timeout=1)
                except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                    connection.terminate()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _connect(self) -> "Connection[Record]":
        options = self._options
        try:
            self._connection = connection = await asyncpg.connect(
                for_asyncpg(options.url),
                timeout=options.connect_timeout_ms / 1000,
                command_timeout=options.timeout_ms / 1000,
            )
        except ValueError as error:  # its text may have a part of the URL in it
            raise SinkUnavailable("postgres: the URL cannot be read") from error
        version = connection.get_server_version()
        if version.major < MIN_VERSION:
            raise SinkUnavailable(f"postgres {version.major} is too old, {MIN_VERSION} is needed")
        if await connection.fetchval("SHOW server_encoding") != "UTF8":
            raise SinkUnavailable("the database's encoding must be UTF8")
        await connection.execute(f"SET search_path = {quoted(options.schema)}")
        if await connection.fetchval("SHOW synchronous_commit") == "off":
            await connection.execute("SET synchronous_commit = on")
        for statement in self._setup:
            await connection.execute(statement)
        return connection

    def _explained(self, error: BaseException) -> str:
        said = " ".join(str(error).split()) or type(error).__name__
        match error:
            case asyncpg.InvalidAuthorizationSpecificationError():
                why = f"the credentials were refused: {said}"
            case asyncpg.InsufficientPrivilegeError():
                why = f"{said}; the role must own the schema, or may create it and temporary tables"
            case asyncpg.ReadOnlySQLTransactionError():
                why = f"{said}: this is a standby, or the role is read-only"
            case TimeoutError():
                why = f"no answer within {self._options.timeout_ms} ms"
            case _:
                why = said
        return f"{shown(self._options.url, self._options.schema)}: {why}"
