"""Upstreams for tests: the simulated provider, plain and TLS, and a real llama.cpp server.

In a test module: `from tests.support.upstreams import sim_provider, tls_files, llama_server`; the
fixtures `sim`, `sim_tls` and `llama` are registered by `tests/conftest.py` or imported by name.
"""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from loadtest import llama, provider
from loadtest.provider import Provider
from loadtest.served import Row
from loadtest.tls import TlsFiles, make_tls_files


@dataclass(frozen=True, slots=True)
class Sim:
    """A running simulated provider: its URL, and itself (`provider.controls`, `provider.served`)."""

    url: str
    provider: Provider

    def row(self, sent_id: str) -> Row:
        """The one POST seen with this id; fails when there are none or several."""
        rows = self.rows(sent_id)
        assert len(rows) == 1, f"{len(rows)} POSTs with id {sent_id}"
        return rows[0]

    def rows(self, sent_id: str) -> list[Row]:
        """All POSTs whose `x-request-id` or `x-client-request-id` is this."""
        rows = self.provider.served.rows
        return [row for row in rows if sent_id in (row.request_id, row.client_id)]


@contextlib.asynccontextmanager
async def sim_provider(
    simulated: Provider | None = None, *, tls: TlsFiles | None = None
) -> AsyncIterator[Sim]:
    """A simulated provider in this event loop, on a free port, that records what it sees."""
    simulated = simulated or Provider(record=True)
    context = tls.server_context() if tls else None
    async with provider.running(simulated, tls=context) as url:
        yield Sim(url, simulated)


@pytest.fixture
async def sim() -> AsyncIterator[Sim]:
    """A plain simulated provider."""
    async with sim_provider() as started:
        yield started


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """Certificates of this test run."""
    return make_tls_files(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def sim_tls(tls_files: TlsFiles) -> AsyncIterator[Sim]:
    """A simulated provider behind TLS."""
    async with sim_provider(tls=tls_files) as started:
        yield started


@pytest.fixture(scope="session")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real llama.cpp server; tests that use it carry the marker `model`."""
    with llama.running(tmp_path_factory.mktemp("llama")) as url:
        yield url
