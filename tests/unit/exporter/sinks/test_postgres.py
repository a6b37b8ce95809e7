"""Postgres as a sink: the contract and the kills on a real server, and what is its own."""

from collections.abc import AsyncIterator

import pytest

from gateway.domain.event_rows import EventRow
from gateway.exporter.sinks.options import PostgresOptions
from gateway.exporter.sinks.postgres import PostgresSink
from gateway.exporter.sinks.postgres_reader import PostgresAccess
from tests.support.postgres_server import PostgresServer
from tests.unit.exporter.sinks.contract import (
    SinkContract,
    StoredIds,
    make_row,
)
from tests.unit.exporter.sinks.killing import KillContract
from tests.unit.exporter.sinks.reading import ReaderContract


@pytest.fixture
def options(postgres_server: PostgresServer) -> PostgresOptions:
    return postgres_server.fresh()


@pytest.fixture
async def sink(options: PostgresOptions) -> AsyncIterator[PostgresSink]:
    sink = PostgresSink(options)
    yield sink
    await sink.close()


@pytest.fixture
def access(options: PostgresOptions) -> PostgresAccess:
    return PostgresAccess(options)


@pytest.fixture
def stored_ids(postgres_server: PostgresServer, options: PostgresOptions) -> StoredIds:
    async def read() -> list[str]:
        rows = postgres_server.execute(f"SELECT event_id FROM {options.schema}.events")
        return [event_id for (event_id,) in rows]

    return read


class TestContract(SinkContract):
    @pytest.fixture
    def unacceptable(self) -> EventRow:
        return make_row(7, amount_nano=1 << 63)


class TestReader(ReaderContract):
    pass


class TestKills(KillContract):
    pass
