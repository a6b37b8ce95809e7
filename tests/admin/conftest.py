"""A console on a real ledger, for the tests of this folder."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.console import Console, Serve, running_console


@pytest.fixture
def serve(tmp_path: Path, valkey_socket: Path) -> Serve:
    """`async with serve(console={...}) as console`: with other sections of its configuration."""
    return partial(running_console, tmp_path, valkey_socket)


@pytest.fixture
async def console(serve: Serve) -> AsyncIterator[Console]:
    """A console with a funded customer (`acme`) and a broke one."""
    async with serve() as running:
        yield running
