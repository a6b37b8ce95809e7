"""Debian's Redis 7.0: its answers are read as Valkey's, and it has no WAITAOF."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.ledger.client.durability import PROMISES
from tests.ledger.client.survey.test_ledger import survey
from tests.support.until import until

pytestmark = pytest.mark.debian


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Path]:
    """A private server; its socket, which takes connections a moment later."""
    socket = tmp_path / "s"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)]
    started = subprocess.Popen([*command, "--appendonly", "yes"], stdout=subprocess.DEVNULL)
    yield socket
    started.terminate()
    started.wait(10)


async def test_it_is_surveyed(process: Path) -> None:
    url = f"unix://{process}"

    async def answers() -> bool:
        return (await survey(url)).nodes[0].away is None

    await until(answers)
    (node,) = (await survey(url)).nodes
    assert node.server is not None
    assert node.server.startswith("Redis 7.0.")
    assert node.waits == {"WAIT": True, "WAITAOF": False}
    assert (node.scripts, node.missing_rights) == (None, ())
    assert node.promise == PROMISES["aof_everysec"]
