"""An exporter in a process of its own, killed with -9 anywhere: nothing is lost, nothing doubled.

A sink's test file derives from `KillContract` and supplies `options` and `stored_ids`.
CREDITGATE_EXPORTER_KILLS sets how often (3 by default).
"""

import asyncio
import base64
import os
import pickle
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis.asyncio

from gateway.exporter.sinks.options import SinkOptions
from tests.support.outbox_writer import OutboxWriter
from tests.unit.exporter.sinks.contract import StoredIds

KILLS = int(os.environ.get("CREDITGATE_EXPORTER_KILLS", "3"))
ROOT = Path(__file__).parents[4]


def start(socket: Path, options: SinkOptions, *more: str) -> subprocess.Popen[bytes]:
    """An exporter of this sink, in a process of its own."""
    command = [sys.executable, str(Path(__file__).parent.with_name("killable.py"))]
    packed = base64.b64encode(pickle.dumps(options)).decode()
    return subprocess.Popen(
        [*command, str(socket), packed, "4", *more],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )


async def ended(process: subprocess.Popen[bytes]) -> int:
    """Its exit code."""
    return await asyncio.wait_for(asyncio.to_thread(process.wait), 30)


async def exported(writer: OutboxWriter) -> None:
    """Wait until the ledger has the acknowledgement of everything stored."""
    async with asyncio.timeout(30 + 4 * KILLS):
        for shard, last in writer.last.items():
            while (await writer.head(shard)).acked != last:  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.02)


class KillContract:
    """Killed between commit and acknowledgement, and anywhere under load."""

    exactly_once = True
    """False for a receiver that only marks repeats: `stored_ids` may hold an id more than once."""

    @pytest.fixture
    def writer(self, valkey: redis.asyncio.Redis) -> OutboxWriter:
        return OutboxWriter(valkey)

    async def assert_whole(self, writer: OutboxWriter, stored_ids: StoredIds) -> None:
        stored = await stored_ids()
        if self.exactly_once:
            assert sorted(stored) == sorted(writer.written)
        else:
            assert set(stored) == set(writer.written)
        for shard, last in writer.last.items():
            assert (await writer.head(shard)).acked == last

    async def test_killed_between_commit_and_acknowledgement_it_repeats_without_doubling(
        self,
        valkey_socket: Path,
        writer: OutboxWriter,
        options: SinkOptions,
        stored_ids: StoredIds,
    ) -> None:
        for _ in range(2):
            await writer.write_many(20)
            process = start(valkey_socket, options, "die-before-ack")
            assert await ended(process) == -signal.SIGKILL
            assert (await writer.head(0)).acked is None
        assert len(await stored_ids()) > 0
        last = start(valkey_socket, options)
        await exported(writer)
        last.terminate()
        assert await ended(last) == 0
        await self.assert_whole(writer, stored_ids)

    async def test_killed_anywhere_under_load_it_neither_loses_nor_doubles(
        self,
        valkey_socket: Path,
        writer: OutboxWriter,
        options: SinkOptions,
        stored_ids: StoredIds,
    ) -> None:
        random.seed(7)
        loading = True

        async def load() -> None:
            while loading:
                await writer.write_many(40)

        writing = asyncio.create_task(load())
        for _ in range(KILLS):
            process = start(valkey_socket, options)
            await asyncio.sleep(random.uniform(0.25, 0.7))
            process.kill()
            assert await ended(process) == -signal.SIGKILL
        loading = False
        await writing
        process = start(valkey_socket, options)
        await exported(writer)
        process.terminate()
        assert await ended(process) == 0
        assert len(writer.written) > 100
        await self.assert_whole(writer, stored_ids)
