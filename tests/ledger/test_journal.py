"""The settle journal: on disk before it answers, replayed until delivered, never in the way."""

import asyncio
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger import journal_file
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.journal_records import LARGEST_RECORD_BYTES, Record
from gateway.ledger.journal import JournalFailed, JournalFull, SettleJournal
from gateway.ledger.journal_file import JournalInUse
from gateway.ledger.journal_replay import orphans, replay_orphan

WRITER = """
import asyncio, sys
from pathlib import Path
from gateway.ledger.journal import SettleJournal

async def main():
    journal = SettleJournal(Path(sys.argv[1]))
    async def write(first):
        for number in range(first, 1_000_000, 8):
            await journal.append({"number": number, "facts": b"x" * 200})
            print(number, flush=True)
    await asyncio.gather(*(write(first) for first in range(8)))

asyncio.run(main())
"""


class Ledger:
    """Takes records while it is up."""

    def __init__(self) -> None:
        self.up = True
        self.up_for = 1 << 30
        self.took: list[Any] = []
        self.poison: set[Any] = set()

    async def deliver(self, record: Record) -> None:
        await asyncio.sleep(0)
        if record["n"] in self.poison:
            raise ValueError("no such price")
        if not self.up or len(self.took) >= self.up_for:
            raise LedgerUnavailable("down")
        self.took.append(record["n"])


def leave(folder: Path, records: list[dict[str, Any]]) -> Path:
    """A journal whose writer is dead."""

    async def write() -> Path:
        own = SettleJournal(folder)
        await asyncio.gather(*(own.append(record) for record in records))
        await own.close()
        return own.path

    return asyncio.run(write())


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Writes beyond `size` fail with EFBIG, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


async def test_what_was_appended_is_delivered_in_order_and_the_file_emptied(
    tmp_path: Path,
) -> None:
    ledger, own = Ledger(), SettleJournal(tmp_path)
    for n in range(200):
        await own.append({"n": n, "facts": b"\x00\xff"})
    assert own.waiting_records == 200
    done = await own.replay(ledger.deliver)
    assert (done.delivered, done.rejected, done.left) == (200, 0, 0)
    assert sorted(ledger.took) == list(range(200))
    assert own.path.stat().st_size == own.size_bytes == 0
    await own.append({"n": 200})
    await own.replay(ledger.deliver)
    assert ledger.took[-1] == 200
    await own.close()
    assert files(tmp_path) == []


async def test_many_appends_share_an_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = []

    def counting(fd: int) -> None:
        syncs.append(fd)
        os.fsync(fd)

    monkeypatch.setattr(journal_file, "_sync", counting)
    own = SettleJournal(tmp_path)
    await asyncio.gather(*(own.append({"n": n}) for n in range(500)))
    assert len(syncs) == 1
    await own.close()


async def test_a_ledger_that_is_down_keeps_the_records_until_it_is_back(tmp_path: Path) -> None:
    ledger, own = Ledger(), SettleJournal(tmp_path)
    for n in range(200):
        await own.append({"n": n})
    ledger.up_for = 100
    first = await own.replay(ledger.deliver)
    assert first.left == own.waiting_records
    assert 100 <= first.left <= 200
    ledger.up_for = 1 << 30
    second = await own.replay(ledger.deliver)
    assert second.left == 0
    assert set(ledger.took) == set(range(200))
    await own.close()


async def test_appends_during_a_replay_are_neither_lost_nor_torn(tmp_path: Path) -> None:
    ledger, own = Ledger(), SettleJournal(tmp_path)
    chance = random.Random(3)

    async def write() -> None:
        for n in range(600):
            await own.append({"n": n, "pad": b"x" * chance.randrange(400)})

    async def read(writing: asyncio.Task[None]) -> None:
        while not writing.done():
            ledger.up = chance.random() < 0.7
            await own.replay(ledger.deliver)
            await asyncio.sleep(0)

    writing = asyncio.create_task(write())
    await read(writing)
    ledger.up = True
    assert (await own.replay(ledger.deliver)).left == 0
    assert set(ledger.took) == set(range(600))
    assert own.path.stat().st_size == 0
    await own.close()


async def test_a_poison_record_is_set_aside_and_stops_nobody(tmp_path: Path) -> None:
    ledger, own = Ledger(), SettleJournal(tmp_path)
    ledger.poison = {3}
    for n in range(10):
        await own.append({"n": n})
    done = await own.replay(ledger.deliver)
    assert (done.delivered, done.rejected, done.left) == (9, 1, 0)
    await own.close()
    [aside] = files(tmp_path)
    assert aside.suffix == ".rejected"
    [(record, _)] = journal_file.next_batch(aside.read_bytes())
    assert record == {"error": "ValueError: no such price", "n": 3}


async def test_a_full_journal_says_so_and_takes_more_once_emptied(tmp_path: Path) -> None:
    ledger, own = Ledger(), SettleJournal(tmp_path, max_bytes=2000)
    taken = 0
    while own.size_bytes + 120 <= 2000:
        await own.append({"n": taken, "pad": b"x" * 100})
        taken += 1
    with pytest.raises(JournalFull, match="2000 bytes"):
        await own.append({"n": taken, "pad": b"x" * 100})
    assert own.path.stat().st_size <= 2000
    await own.replay(ledger.deliver)
    assert len(ledger.took) == taken
    await own.append({"n": taken})
    await own.close()


async def test_a_record_too_large_is_refused(tmp_path: Path) -> None:
    own = SettleJournal(tmp_path)
    with pytest.raises(ValueError, match="too large"):
        await own.append({"n": b"x" * (LARGEST_RECORD_BYTES + 1)})
    await own.append({"n": b"x" * (LARGEST_RECORD_BYTES - 100)})
    ledger = Ledger()
    assert (await own.replay(ledger.deliver)).delivered == 1
    await own.close()


async def test_a_disk_that_is_full_fails_the_append_and_harms_nothing_before_it(
    tmp_path: Path,
) -> None:
    ledger, own = Ledger(), SettleJournal(tmp_path)
    await own.append({"n": 0})
    with file_limit(own.path.stat().st_size + 50), pytest.raises(JournalFailed, match="refused"):
        await own.append({"n": 1, "pad": b"x" * 500})
    await own.append({"n": 2})
    assert (await own.replay(ledger.deliver)).left == 0
    assert sorted(ledger.took) == [0, 2]
    await own.close()


async def test_after_a_failed_fsync_nothing_more_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = SettleJournal(tmp_path)

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(journal_file, "_sync", fail)
    with pytest.raises(JournalFailed):
        await own.append({"n": 0})
    monkeypatch.undo()
    with pytest.raises(JournalFailed, match="cannot be flushed"):
        await own.append({"n": 1})
    await own.close()


async def test_a_cancelled_append_harms_no_other(tmp_path: Path) -> None:
    own = SettleJournal(tmp_path)
    tasks = [asyncio.create_task(own.append({"n": n})) for n in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[1::2] == [None] * 50
    ledger = Ledger()
    await own.replay(ledger.deliver)
    assert set(range(1, 100, 2)) <= set(ledger.took)
    await own.close()


async def test_a_living_writers_file_is_no_orphan(tmp_path: Path) -> None:
    own = SettleJournal(tmp_path)
    await own.append({"n": 0})
    assert orphans(tmp_path) == []
    with pytest.raises(JournalInUse):
        await replay_orphan(own.path, Ledger().deliver)
    await own.close()
    assert orphans(tmp_path) == [own.path]
    with pytest.raises(JournalFailed, match="closed"):
        await own.append({"n": 1})


def test_a_killed_writers_acknowledged_records_are_all_delivered(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    acknowledged = {int(writer.stdout.readline()) for _ in range(500)}
    writer.kill()
    acknowledged |= {
        int(line) for line in writer.stdout.read().splitlines(True) if line[-1] == "\n"
    }
    writer.wait()
    writer.stdout.close()
    [path] = orphans(tmp_path)
    found: set[int] = set()

    async def deliver(record: Record) -> None:
        found.add(record["number"])

    done = asyncio.run(replay_orphan(path, deliver))
    assert acknowledged <= found
    assert (done.left, done.damaged_bytes) == (0, 0)
    assert files(tmp_path) == []


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_tail_torn_anywhere_is_ignored(tmp_path: Path, cut: int) -> None:
    path = leave(tmp_path, [{"n": n, "pad": b"x" * 30} for n in range(3)])
    os.truncate(path, path.stat().st_size - cut)
    ledger = Ledger()
    done = asyncio.run(replay_orphan(path, ledger.deliver))
    assert sorted(ledger.took) == [0, 1]
    assert done.damaged_bytes == 0
    assert files(tmp_path) == []


def test_a_tail_of_zeros_is_torn_too(tmp_path: Path) -> None:
    path = leave(tmp_path, [{"n": 0}])
    os.truncate(path, path.stat().st_size + 4096)
    ledger = Ledger()
    assert asyncio.run(replay_orphan(path, ledger.deliver)).damaged_bytes == 0
    assert ledger.took == [0]


def test_damage_is_kept_for_people_to_look_at(tmp_path: Path) -> None:
    path = leave(tmp_path, [{"n": n, "pad": b"x" * 30} for n in range(3)])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    ledger = Ledger()
    done = asyncio.run(replay_orphan(path, ledger.deliver))
    assert ledger.took == [0]
    assert done.damaged_bytes > 0
    assert [each.suffix for each in files(tmp_path)] == [".damaged"]
    assert orphans(tmp_path) == []


def test_an_orphan_waits_until_the_ledger_is_back(tmp_path: Path) -> None:
    path = leave(tmp_path, [{"n": n} for n in range(150)])
    ledger = Ledger()
    ledger.up_for = 70
    first = asyncio.run(replay_orphan(path, ledger.deliver))
    assert 80 <= first.left <= 150
    assert orphans(tmp_path) == [path]
    ledger.up_for = 1 << 30
    assert asyncio.run(replay_orphan(path, ledger.deliver)).left == 0
    assert set(ledger.took) == set(range(150))
    assert orphans(tmp_path) == []


async def test_of_two_replayers_one_works(tmp_path: Path) -> None:
    path = await asyncio.to_thread(leave, tmp_path, [{"n": n} for n in range(300)])
    ledger = Ledger()
    results = await asyncio.gather(
        *(replay_orphan(path, ledger.deliver) for _ in range(4)), return_exceptions=True
    )
    assert sorted(ledger.took) == list(range(300))
    others = [each for each in results if isinstance(each, BaseException)]
    assert len(others) == 3
    assert all(isinstance(each, JournalInUse | FileNotFoundError) for each in others)
