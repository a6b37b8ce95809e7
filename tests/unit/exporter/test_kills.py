"""An exporter in a process of its own, killed with -9 anywhere: nothing is lost, nothing doubled.

CREDITGATE_EXPORTER_KILLS sets how often (3 by default).
"""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import redis.asyncio

from gateway.exporter.sinks.sqlite_reader import SqliteStore
from tests.support.outbox_writer import OutboxWriter

KILLS = int(os.environ.get("CREDITGATE_EXPORTER_KILLS", "3"))
ROOT = Path(__file__).parents[3]


@pytest.fixture
def writer(valkey: redis.asyncio.Redis) -> OutboxWriter:
    return OutboxWriter(valkey)


def start(socket: Path, store: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(Path(__file__).with_name("killable.py"))]
    return subprocess.Popen(
        [*command, str(socket), str(store), "4", *more],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )


async def ended(process: subprocess.Popen[bytes]) -> int:
    return await asyncio.wait_for(asyncio.to_thread(process.wait), 30)


async def exported(writer: OutboxWriter) -> None:
    """Wait until the ledger has the acknowledgement of everything stored."""
    async with asyncio.timeout(30):
        for shard, last in writer.last.items():
            while (await writer.head(shard)).acked != last:  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.02)


def stored_ids(store: Path) -> list[str]:
    with sqlite3.connect(store) as connection:
        return [row[0] for row in connection.execute("SELECT event_id FROM events")]


async def assert_whole(writer: OutboxWriter, store: Path) -> None:
    """Sink ids are the written ids, each once; the numbering has no gap; the ledger has the acknowledgement."""
    assert sorted(stored_ids(store)) == sorted(writer.written)
    with SqliteStore.at(store) as reader:
        assert reader.anomalies() == []
        assert reader.dead_letters() == []
        for shard, last in writer.last.items():
            ((span),) = reader.shard_contents(shard, last).spans
            assert (span.first_seq, span.last_seq, span.count) == (0, last.seq, last.seq + 1)
            assert (await writer.head(shard)).acked == last


async def test_killed_between_commit_and_acknowledgement_it_repeats_without_doubling(
    valkey_socket: Path, writer: OutboxWriter, tmp_path: Path
) -> None:
    store = tmp_path / "events.db"
    for _ in range(2):
        await writer.write_many(20)
        assert await ended(start(valkey_socket, store, "die-before-ack")) == -signal.SIGKILL
        assert (await writer.head(0)).acked is None
    assert len(stored_ids(store)) > 0
    last = start(valkey_socket, store)
    await exported(writer)
    last.terminate()
    assert await ended(last) == 0
    await assert_whole(writer, store)


async def test_killed_anywhere_under_load_it_neither_loses_nor_doubles(
    valkey_socket: Path, writer: OutboxWriter, tmp_path: Path
) -> None:
    store = tmp_path / "events.db"
    random.seed(7)
    loading = True

    async def load() -> None:
        while loading:
            await writer.write_many(40)

    writing = asyncio.create_task(load())
    for _ in range(KILLS):
        process = start(valkey_socket, store)
        await asyncio.sleep(random.uniform(0.25, 0.7))
        process.kill()
        assert await ended(process) == -signal.SIGKILL
    loading = False
    await writing
    process = start(valkey_socket, store)
    await exported(writer)
    process.terminate()
    assert await ended(process) == 0
    assert len(writer.written) > 100
    await assert_whole(writer, store)


async def test_two_exporters_on_one_store_do_no_harm(
    valkey_socket: Path, writer: OutboxWriter, tmp_path: Path
) -> None:
    """The second waits for the first; when that is killed, it takes over."""
    store = tmp_path / "events.db"
    first, second = start(valkey_socket, store), start(valkey_socket, store)
    await writer.write_many(40)
    await exported(writer)
    first.kill()
    await ended(first)
    await writer.write_many(40)
    await exported(writer)
    second.terminate()
    assert await ended(second) == 0
    await assert_whole(writer, store)
