"""Noticing that configuration files change, on a real file system."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.app.watch import changes, digest


@pytest.fixture
async def noticed(tmp_path: Path) -> AsyncIterator[asyncio.Queue[None]]:
    """Changes noticed of `gate.yaml` and `keys` in the test's folder."""
    for name in ("gate.yaml", "keys"):
        (tmp_path / name).write_text("old")
    seen: asyncio.Queue[None] = asyncio.Queue()

    async def watch() -> None:
        async for _ in changes(lambda: (tmp_path / "gate.yaml", tmp_path / "keys")):
            seen.put_nowait(None)

    task = asyncio.create_task(watch())
    await asyncio.sleep(0.3)  # until the kernel watches
    yield seen
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_file_written_in_place_is_noticed(
    noticed: asyncio.Queue[None], tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("new")
    await asyncio.wait_for(noticed.get(), 10)


async def test_a_file_replaced_by_another_is_noticed(
    noticed: asyncio.Queue[None], tmp_path: Path
) -> None:
    (tmp_path / "staged").write_text("new")
    (tmp_path / "staged").rename(tmp_path / "gate.yaml")
    await asyncio.wait_for(noticed.get(), 10)


async def test_neighbours_and_rewrites_of_the_same_text_are_nothing(
    noticed: asyncio.Queue[None], tmp_path: Path
) -> None:
    (tmp_path / "neighbour").write_text("new")
    (tmp_path / "gate.yaml").write_text("old")
    await asyncio.sleep(1)
    assert noticed.empty()
    (tmp_path / "gate.yaml").write_text("new")
    await asyncio.wait_for(noticed.get(), 10)


def test_the_digest_tells_absent_files_and_which_file_holds_what(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    absent = digest([one, two])
    one.write_text("a")
    first = digest([one, two])
    one.rename(two)
    assert len({absent, first, digest([one, two])}) == 3
