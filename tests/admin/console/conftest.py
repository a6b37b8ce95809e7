"""A running shop for the tests of the console."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.upstreams import Sim, sim

from .shop import Shop, running_shop

__all__ = ["sim"]


@pytest.fixture
async def shop(tmp_path: Path, valkey_socket: Path, sim: Sim) -> AsyncIterator[Shop]:
    """`acme` has used some of its credit, `broke` was refused."""
    async with running_shop(tmp_path, valkey_socket, sim.url) as running:
        yield running
