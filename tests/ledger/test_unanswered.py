"""The stream by which workers tell each other of requests without an answer, on a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis.asyncio

from gateway.app.tasks import end_tasks
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.codec.notes import Note
from gateway.ledger.unanswered import TOLD_FOR_MS, UnansweredLog
from tests.ledger.servers import server
from tests.support.until import until

STREAM = "{cg}:unanswered"
FIRST = Note("unanswered", "r1", "acme\0k1", b"0123456789abcdef")


@asynccontextmanager
async def running(client: redis.asyncio.Redis) -> AsyncIterator[tuple[UnansweredLog, list[Note]]]:
    """One worker's end, writing and reading; what it has taken."""
    log, taken = UnansweredLog(client), list[Note]()
    tasks = [
        asyncio.create_task(log.write()),
        asyncio.create_task(log.read(lambda note, _: taken.append(note))),
    ]
    yield log, taken
    await end_tasks(tasks)


async def test_what_one_tells_all_take_in_order(
    valkey: redis.asyncio.Redis, valkey_socket: Path
) -> None:
    other = Endpoint.from_url(f"unix://{valkey_socket}").client(name="other")
    async with running(valkey) as (one, mine), running(other) as (_, theirs):
        notes = [FIRST, Note("not_charged", "r1"), Note("repeated", "r0")]
        for note in notes:
            one.post(note)
        await until(lambda: len(mine) == len(theirs) == 3)
        assert mine == theirs == notes
    await other.aclose()


async def told(client: redis.asyncio.Redis, note: Note, *, ago_s: int) -> None:
    """Written so long ago; the stream must be empty, or its last entry older."""
    log = UnansweredLog(client)
    log.post(note)
    await log.flush()
    newest: Any = await client.xrevrange(STREAM, count=1)
    [(entry_id, fields)] = newest
    await client.delete(STREAM)
    await client.xadd(STREAM, fields, id=f"{int(entry_id.split(b'-')[0]) - ago_s * 1000}-0")


async def test_who_comes_later_takes_what_was_told_lately_with_its_age(
    valkey: redis.asyncio.Redis,
) -> None:
    await told(valkey, FIRST, ago_s=30)
    taken: list[tuple[Note, float]] = []
    reading = asyncio.create_task(
        UnansweredLog(valkey).read(lambda note, age_s: taken.append((note, age_s)))
    )
    await until(lambda: taken)
    reading.cancel()
    [(note, age_s)] = taken
    assert note == FIRST
    assert 30 <= age_s <= 40


async def test_after_ten_minutes_it_is_neither_taken_nor_there(
    valkey: redis.asyncio.Redis,
) -> None:
    await told(valkey, FIRST, ago_s=601)
    async with running(valkey) as (log, taken):
        log.post(Note("repeated", "now"))
        await until(lambda: taken)
        assert taken == [Note("repeated", "now")]
    assert await valkey.xlen(STREAM) == 1, "who writes trims"


async def test_the_stream_and_the_queue_are_bounded(valkey: redis.asyncio.Redis) -> None:
    log = UnansweredLog(valkey, max_entries=100, queue_limit=50)
    for number in range(60):
        log.post(Note("repeated", f"r{number}"))
    await log.flush()
    assert await valkey.xlen(STREAM) == 50
    for _ in range(20):
        for number in range(50):
            log.post(Note("repeated", f"r{number}"))
        await log.flush()
    assert await valkey.xlen(STREAM) <= 300, "trimmed by whole nodes"
    assert TOLD_FOR_MS == 600_000


async def test_what_another_release_tells_is_passed_over(valkey: redis.asyncio.Redis) -> None:
    async with running(valkey) as (log, taken):
        for strange in (b"\xc1", b"", b"\x91\xa1x", b"\x94\xa1x\xa1y\xa0\xc4\x00"):
            await valkey.xadd(STREAM, {"n": strange})
        await valkey.xadd(STREAM, {"other": "field"})
        log.post(FIRST)
        await until(lambda: taken)
        assert taken == [FIRST]


async def test_a_ledger_that_comes_back_hears_what_waited(tmp_path: Path) -> None:
    with server(tmp_path / "own") as own:
        client = Endpoint.from_url(f"unix://{own.socket}").client(name="t", timeout_s=3)
        async with running(client) as (log, taken):
            log.post(FIRST)
            await until(lambda: taken)
            own.process.kill()
            own.process.wait()
            log.post(Note("repeated", "r1"))
            await asyncio.sleep(0.1)
            with server(tmp_path / "own"):
                await until(lambda: Note("repeated", "r1") in taken, within_s=15)
        await client.aclose()
