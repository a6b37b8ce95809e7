"""A gate in front of the simulated provider, for the tests of this folder."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.gate import Gate, running_gate
from tests.support.upstreams import Sim, llama_server, sim

__all__ = ["gate", "llama_server", "sim"]


@pytest.fixture
async def gate(tmp_path: Path, valkey_socket: Path, sim: Sim) -> AsyncIterator[Gate]:
    """One worker's gate with a funded customer (`acme`) and a broke one."""
    async with running_gate(tmp_path, valkey_socket, sim.url) as running:
        yield running
