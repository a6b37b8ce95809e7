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


async def test_a_volume_of_kubernetes_that_is_switched_to_another_version_is_noticed(
    tmp_path: Path,
) -> None:
    """Files are links into `..data`, itself a link that is replaced; secrets are in a folder below."""
    for version, secret in (("..1", "old"), ("..2", "new")):
        (tmp_path / version / "secrets").mkdir(parents=True)
        (tmp_path / version / "gateway.yaml").write_text("the same")
        (tmp_path / version / "secrets" / "token").write_text(secret)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "gateway.yaml").symlink_to("..data/gateway.yaml")
    (tmp_path / "secrets").symlink_to("..data/secrets")
    seen = changes(lambda: (tmp_path / "gateway.yaml", tmp_path / "secrets" / "token"))
    noticed = asyncio.ensure_future(anext(seen))
    await asyncio.sleep(0.3)  # until the kernel watches
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    await asyncio.wait_for(noticed, 10)
