"""Kept answers: found again for a day, within a cap, by every worker; and a file that fails is no fault."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.domain.reservation import IDEMPOTENCY_TTL_MS
from gateway.flow.kept_responses import ANSWER_MAX_BYTES, ROW_BYTES, AnswerStore, KeptAnswer


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[AnswerStore]:
    opened = AnswerStore(tmp_path / "answers.db", 1 << 20)
    yield opened
    await opened.close()


def answer(body: bytes = b"{}") -> KeptAnswer:
    return KeptAnswer(200, "application/json", 42, body)


def counted(store: AnswerStore) -> tuple[int, int]:
    """What the cap counts, and what really lies there."""
    with sqlite3.connect(store._path) as database:
        total = database.execute("SELECT bytes FROM total").fetchone()[0]
        rows = f"SELECT coalesce(sum({ROW_BYTES} + length(body)), 0) FROM answers"
        return total, database.execute(rows).fetchone()[0]


async def test_what_is_kept_is_found_by_another_worker(store: AnswerStore) -> None:
    other = AnswerStore(store._path, 1 << 20)
    assert await other.find("r1") is None
    assert not store._path.exists(), "looking makes no file"
    await store.keep("r1", answer(b"\x00 any bytes"))
    await other.keep("r2", answer())
    assert await other.find("r1") == answer(b"\x00 any bytes")
    assert await store.find("r2") == answer()
    assert await store.find("r3") is None
    assert (await store.sweep(), await other.sweep()) == (0, 0)
    await other.close()


async def test_the_first_answer_to_a_request_stays(store: AnswerStore) -> None:
    await store.keep("r1", answer(b"first"))
    await store.keep("r1", answer(b"second"))
    assert await store.find("r1") == answer(b"first")
    assert counted(store) == (ROW_BYTES + 5, ROW_BYTES + 5)


async def test_only_answers_of_64_kib_and_less_are_kept(store: AnswerStore) -> None:
    await store.keep("most", answer(b"x" * ANSWER_MAX_BYTES))
    await store.keep("more", answer(b"x" * (ANSWER_MAX_BYTES + 1)))
    assert await store.find("most") is not None
    assert await store.find("more") is None


async def test_beyond_the_cap_the_oldest_go_first(store: AnswerStore) -> None:
    store.max_bytes = 200 * (ROW_BYTES + 100)
    for number in range(500):
        await store.keep(f"r{number}", answer(b"x" * 100))
        total, there = counted(store)
        assert total == there <= store.max_bytes
    assert await store.find("r499") is not None
    found = [number for number in range(500) if await store.find(f"r{number}") is not None]
    assert found == list(range(found[0], 500)), "what is left is the latest, without a gap"
    assert len(found) > 100


async def test_workers_that_keep_at_once_lose_nothing(tmp_path: Path) -> None:
    stores = [AnswerStore(tmp_path / "answers.db", 1 << 20) for _ in range(4)]
    await asyncio.gather(
        *(store.keep(f"{n}-{i}", answer()) for n, store in enumerate(stores) for i in range(25))
    )
    assert counted(stores[0]) == (100 * (ROW_BYTES + 2), 100 * (ROW_BYTES + 2))
    for store in stores:
        await store.close()


async def test_after_a_day_an_answer_is_neither_found_nor_there(store: AnswerStore) -> None:
    for number in range(130):
        await store.keep(f"r{number}", answer())
    with sqlite3.connect(store._path) as database:
        database.execute("UPDATE answers SET kept_at_ms = kept_at_ms - ?", (IDEMPOTENCY_TTL_MS,))
    await store.keep("young", answer())
    assert await store.find("r0") is None
    assert await store.sweep() == 130
    assert await store.sweep() == 0
    assert await store.find("young") is not None
    assert counted(store) == (ROW_BYTES + 2, ROW_BYTES + 2)


async def test_a_file_that_fails_fails_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "answers.db"
    broken.write_bytes(b"this is no database" * 100)
    store = AnswerStore(broken, 1 << 20)
    await store.keep("r1", answer())
    assert await store.find("r1") is None
    assert await store.sweep() == 0
    await store.close()
    await store.close()
    assert await store.find("r1") is None, "a request that comes while the gate ends"
