"""A gate in front of the simulated provider, for the tests of this folder."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.gate import Gate, Serve, running_gate
from tests.support.upstreams import Sim, llama_server, sim

__all__ = ["gate", "llama_server", "serve", "sim"]


@pytest.fixture
def serve(tmp_path: Path, valkey_socket: Path, sim: Sim) -> Serve:
    """`async with serve(policy=...) as gate`: a gate with other sections of its configuration."""
    return partial(running_gate, tmp_path, valkey_socket, sim.url)


@pytest.fixture
async def gate(serve: Serve) -> AsyncIterator[Gate]:
    """One worker's gate with a funded customer (`acme`) and a broke one."""
    async with serve() as running:
        yield running
