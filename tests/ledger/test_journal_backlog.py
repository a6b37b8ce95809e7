"""A journal whose records partly cannot be delivered: the rest is, and nothing is lost or offered forever."""

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger import journal, journal_file
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.journal_records import Record
from gateway.ledger.journal import SettleJournal
from gateway.ledger.journal_replay import orphans, replay_orphan

SHARDS = 4


class Ledger:
    """Takes records of all shards but those that are away."""

    def __init__(self, *away: int) -> None:
        self.away = set(away)
        self.took: list[int] = []
        self.offered: Counter[int] = Counter()

    async def deliver(self, record: Record) -> None:
        await asyncio.sleep(0)
        self.offered[record["n"]] += 1
        if record["shard"] in self.away:
            raise LedgerUnavailable("away")
        self.took.append(record["n"])


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def record(n: int) -> dict[str, Any]:
    return {"n": n, "shard": n % SHARDS, "pad": b"x" * (n % 50)}


async def filled(folder: Path, count: int) -> SettleJournal:
    own = SettleJournal(folder)
    await asyncio.gather(*(own.append(record(n)) for n in range(count)))
    return own


async def test_records_of_other_shards_are_delivered_and_a_pass_offers_each_once(
    tmp_path: Path,
) -> None:
    own, ledger = await filled(tmp_path, 1000), Ledger(1)
    done = await own.replay(ledger.deliver)
    assert (done.delivered, done.left) == (750, 250)
    assert own.waiting_records == 250
    assert sorted(ledger.took) == [n for n in range(1000) if n % SHARDS != 1]
    assert max(ledger.offered.values()) == 1
    assert sum(ledger.offered[n] for n in range(1, 1000, SHARDS)) <= 64, "it was tried, not stormed"
    before = ledger.offered.total()
    assert (await own.replay(ledger.deliver)).left == 250
    assert ledger.offered.total() == before + 1, "one record asks whether the shard is back"
    ledger.away.clear()
    done = await own.replay(ledger.deliver)
    assert (done.delivered, done.left) == (250, 0)
    assert ledger.took[750:] == list(range(1, 1000, SHARDS)), "in order"
    assert own.path.stat().st_size == own.size_bytes == 0
    await own.close()
    assert files(tmp_path) == []


async def test_the_file_is_rewritten_without_what_was_delivered(tmp_path: Path) -> None:
    own = await filled(tmp_path, 400)
    before, ledger = own.size_bytes, Ledger(1)
    await own.replay(ledger.deliver)
    assert own.size_bytes == own.path.stat().st_size < before / 2
    await own.append(record(401))
    await own.close()
    ledger = Ledger()
    assert (await replay_orphan(own.path, ledger.deliver)).left == 0
    assert ledger.took == [*range(1, 400, SHARDS), 401]
    assert files(tmp_path) == []


async def test_a_little_that_was_delivered_is_rewritten_after_a_while_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, ledger = await filled(tmp_path, 400), Ledger(1, 2, 3)
    before = own.size_bytes
    await own.replay(ledger.deliver)
    assert own.size_bytes == before
    monkeypatch.setattr(journal, "REWRITE_EVERY_S", 0.0)
    await own.replay(ledger.deliver)
    assert own.size_bytes < before
    monkeypatch.undo()
    await own.append(record(404))
    await own.replay(ledger.deliver)
    await own.close()
    ledger = Ledger()
    await replay_orphan(own.path, ledger.deliver)
    assert sorted(ledger.took) == [n for n in range(400) if n % SHARDS]


async def test_a_rewrite_that_fails_leaves_the_file_and_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, ledger = await filled(tmp_path, 100), Ledger(1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal_file, "write_all", full)
    await own.replay(ledger.deliver)
    monkeypatch.undo()
    await own.append(record(101))
    ledger.away.clear()
    assert (await own.replay(ledger.deliver)).left == 0
    assert sorted(ledger.took) == sorted([*range(100), 101])
    await own.close()
    assert files(tmp_path) == []


async def test_appends_and_cancelled_replays_during_rewrites_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "REWRITE_EVERY_S", 0.0)
    own, ledger, chance = SettleJournal(tmp_path), Ledger(), random.Random(5)

    async def write(first: int) -> None:
        for n in range(first, 2000, 8):
            await own.append(record(n))

    writing = asyncio.gather(*(write(first) for first in range(8)))
    while not writing.done():
        ledger.away = set(chance.sample(range(SHARDS), 2))
        replaying = asyncio.create_task(own.replay(ledger.deliver))
        await asyncio.wait([replaying], timeout=chance.random() * 0.02)
        replaying.cancel()
        await asyncio.wait([replaying])
    ledger.away.clear()
    assert (await own.replay(ledger.deliver)).left == 0
    assert set(ledger.took) == set(range(2000))
    assert own.path.stat().st_size == 0
    await own.close()


async def test_an_orphan_keeps_what_is_unavailable_and_its_damage(tmp_path: Path) -> None:
    own = await filled(tmp_path, 100)
    await own.close()
    with own.path.open("ab") as file:
        file.write(b"\x10\0\0\0" + b"damage" * 10)
    ledger = Ledger(1)
    done = await replay_orphan(own.path, ledger.deliver)
    assert (done.delivered, done.left) == (75, 25)
    assert orphans(tmp_path) == [own.path]
    again = Ledger()
    done = await replay_orphan(own.path, again.deliver)
    assert again.took == list(range(1, 100, SHARDS)), "nothing that was delivered before"
    assert done.damaged_bytes == 64
    assert [path.suffix for path in files(tmp_path)] == [".damaged"]


DIES = """
import asyncio, os, signal, sys
from pathlib import Path
from gateway.ledger import journal_file
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.journal import SettleJournal
from gateway.ledger.journal_replay import orphans, replay_orphan

folder, where, of_orphan = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "orphan"

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

async def deliver(record):
    if record["shard"] == 1:
        raise LedgerUnavailable("away")
    print(record["n"], flush=True)

async def main():
    journal = SettleJournal(folder)
    for n in range(200):
        await journal.append({"n": n, "shard": n % 4})
    if of_orphan:
        await journal.close()
    if where == "write":
        journal_file._sync = die
    elif where == "rename":
        type(folder).rename = die
    else:
        journal_file.sync_folder = die
    if of_orphan:
        await replay_orphan(orphans(folder)[0], deliver)
    else:
        await journal.replay(deliver)

asyncio.run(main())
"""


@pytest.mark.parametrize("whose", ["own", "orphan"])
@pytest.mark.parametrize("where", ["write", "rename", "sync"])
def test_a_kill_while_the_file_is_rewritten_loses_nothing(
    tmp_path: Path, where: str, whose: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DIES, str(tmp_path), where, whose],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == -9
    delivered = [int(line) for line in done.stdout.split()]
    assert delivered == [n for n in range(200) if n % 4 != 1]
    [path] = orphans(tmp_path)
    ledger = Ledger()
    assert asyncio.run(replay_orphan(path, ledger.deliver)).left == 0
    assert set(ledger.took) >= set(range(1, 200, 4))
    if where == "sync":
        assert ledger.took == list(range(1, 200, 4)), "the new file is in place"
    assert files(tmp_path) == []
