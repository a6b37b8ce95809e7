"""Access to the store in Postgres: opens it for reading, and keeps closed statements."""

from contextlib import closing
from dataclasses import astuple

import psycopg

from gateway.domain.delivery import Place
from gateway.domain.stores import ClosedStatement, EventStore, StoreMissing
from gateway.exporter.sinks import postgres_pool as pools
from gateway.exporter.sinks import postgres_queries as sql
from gateway.exporter.sinks.options import PostgresOptions
from gateway.exporter.sinks.postgres_pool import PostgresPool, explained
from gateway.exporter.sinks.postgres_reader import PostgresStore
from gateway.exporter.sinks.postgres_url import shown
from gateway.exporter.sinks.sqlite_reader import SqliteStore


class PostgresAccess:
    """`gateway.domain.stores.StoreAccess` to one schema. Its connections are kept between calls."""

    def __init__(self, options: PostgresOptions) -> None:
        self._options = options
        self._pool = PostgresPool(options)

    @property
    def shown(self) -> str:
        """See `StoreAccess`."""
        return shown(self._options.url, self._options.schema)

    def open(self) -> PostgresStore:
        """See `StoreAccess`."""
        store = self._open()
        if store is None:
            raise StoreMissing(f"there is no store at {self.shown}")
        return store

    def open_or_empty(self) -> EventStore:
        """See `StoreAccess`."""
        return self._open() or SqliteStore.empty()

    def cursors(self) -> dict[int, Place]:
        """See `StoreAccess`."""
        with self.open_or_empty() as store:
            return store.cursors()

    def keep_statement(self, statement: ClosedStatement) -> ClosedStatement:
        """See `StoreAccess`."""
        try:
            with closing(pools.connect(self._options, read_only=False)) as connection:
                connection.execute(sql.KEEP_STATEMENT.encode(), astuple(statement))
        except (psycopg.Error, OSError) as error:
            raise StoreMissing(explained(self._options, error)) from error
        with self.open() as store:
            kept = store.closed_statement(statement.customer_id, statement.period)
        assert kept is not None, "it was kept just now"
        return kept

    def _open(self) -> PostgresStore | None:
        """The store; None where nothing has been exported yet. Raises StoreMissing."""
        connection, there = self._pool.take()
        if there:
            return PostgresStore(self._pool, connection)
        self._pool.give_back(connection)
        return None
