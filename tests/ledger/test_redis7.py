"""The same scripts on Debian's Redis 7.0: every word, the random walk."""

import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis.asyncio

from gateway.ledger.client.scripts import load_scripts
from tests.ledger.test_oracle import SEED, STEPS, wander
from tests.ledger.test_words import LISTED, run_scenario

pytestmark = pytest.mark.debian


@pytest.fixture
def redis7_socket(tmp_path: Path) -> Iterator[Path]:
    """A private server."""
    socket = tmp_path / "s"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", ""]
    server = subprocess.Popen([*command, "--dir", str(tmp_path)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.01)
        yield socket
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
async def redis7(redis7_socket: Path) -> AsyncIterator[redis.asyncio.Redis]:
    """A client on it."""
    async with redis.asyncio.Redis(unix_socket_path=str(redis7_socket)) as client:
        yield client


async def test_scripts_load(redis7: redis.asyncio.Redis) -> None:
    for script in load_scripts().values():
        assert await redis7.script_load(script.source) == script.sha.decode()


async def test_every_word_is_answered(redis7: redis.asyncio.Redis) -> None:
    for name, word in LISTED:
        await redis7.flushall()
        await run_scenario(name, word, redis7)


@pytest.mark.timeout(0)
async def test_random_operations_agree_with_the_model(redis7: redis.asyncio.Redis) -> None:
    await wander(redis7, STEPS, SEED + 1)
