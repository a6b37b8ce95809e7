"""ClickHouse as a store: the contracts on both servers, and what is its own."""

from collections.abc import AsyncIterator

import pytest

from gateway.exporter.sinks.clickhouse import ClickHouseSink
from gateway.exporter.sinks.clickhouse_reader import ClickHouseAccess
from gateway.exporter.sinks.options import ClickHouseOptions
from tests.support.clickhouse_server import ClickHouseServer, server
from tests.unit.exporter.sinks.contract import SinkContract, StoredIds
from tests.unit.exporter.sinks.killing import KillContract
from tests.unit.exporter.sinks.reading import ReaderContract

__all__ = ["server"]


@pytest.fixture
def options(server: ClickHouseServer) -> ClickHouseOptions:
    return server.options()


@pytest.fixture
async def sink(options: ClickHouseOptions) -> AsyncIterator[ClickHouseSink]:
    sink = ClickHouseSink(options)
    yield sink
    await sink.close()


@pytest.fixture
def access(options: ClickHouseOptions) -> ClickHouseAccess:
    return ClickHouseAccess(options)


@pytest.fixture
def stored_ids(server: ClickHouseServer, options: ClickHouseOptions) -> StoredIds:
    async def read() -> list[str]:
        found = server.ask("SELECT event_id FROM events FINAL", options.database)
        return [line["event_id"] for line in found]

    return read


class TestContract(SinkContract):
    pass


class TestKills(KillContract):
    pass


class TestReader(ReaderContract):
    pass
