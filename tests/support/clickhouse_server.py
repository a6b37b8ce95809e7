"""Both ClickHouse servers as a fixture: see `loadtest.sinks.clickhouse_server` for what each of them is."""

import shutil
from collections.abc import Iterator

import pytest

from loadtest.sinks.clickhouse_server import DEBIAN, ClickHouseServer, running

__all__ = ["ClickHouseServer", "server"]


@pytest.fixture(scope="module", params=["chdb", pytest.param("debian", marks=pytest.mark.debian)])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClickHouseServer]:
    """Each of the two, for the tests of one module."""
    debian = request.param == "debian"
    if debian and shutil.which(DEBIAN) is None:
        pytest.skip("clickhouse-server is not installed")
    with running(tmp_path_factory.mktemp(request.param), debian=debian) as server:
        yield server
