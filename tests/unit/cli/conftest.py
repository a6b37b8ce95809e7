"""A gate that runs, and the operator's desk beside it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from tests.support.gate import Gate, running_gate
from tests.support.upstreams import Sim, sim

from .desk import Desk

__all__ = ["desk", "gate", "sim"]


@pytest.fixture
async def gate(tmp_path: Path, valkey_socket: Path, sim: Sim) -> AsyncIterator[Gate]:
    """One worker's gate with a funded customer (`acme`) and a broke one (`broke`)."""
    async with running_gate(tmp_path, valkey_socket, sim.url) as running:
        yield running


@pytest.fixture
def desk(gate: Gate, tmp_path: Path) -> Desk:
    """The command line on that gate's configuration."""
    return Desk(tmp_path / "gateway.yaml")


@pytest.fixture
def quiet_logs() -> Iterator[None]:
    """Where a gate and its exporter log beside commands, in one process, these keep stdout."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()
