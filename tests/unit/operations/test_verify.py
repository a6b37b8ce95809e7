"""verify: silent on a true ledger, also a moving one; loud for each kind of damage."""

import asyncio
import sqlite3
import struct
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from gateway.exporter.main import Exporter
from gateway.exporter.pacing import PumpOptions
from gateway.exporter.sinks.sqlite_reader import SqliteStore
from gateway.operations.drifts import Verified
from gateway.operations.verify import verify
from tests.support.bank import CREDIT, Bank
from tests.support.stores import sqlite_access, sqlite_sink

QUICK = PumpOptions(block_ms=10, linger_s=0.005, watch_s=0.1)


@pytest.fixture
def bank(valkey: redis.asyncio.Redis) -> Bank:
    return Bank(valkey)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
async def busy(bank: Bank, path: Path) -> Bank:
    """Customers with every kind of history: some of it stored, some in the outbox, some pending."""
    for number in range(5):
        await bank.open(f"c{number}")
        await bank.spend(f"c{number}", f"stored-{number}")
    await bank.release("c0", await bank.reserve("c0", "released"))
    await export(bank, path)
    for number in range(5):
        await bank.spend(f"c{number}", f"waiting-{number}")
        await bank.reserve(f"c{number}", f"pending-{number}")
    await bank.operator.adjust("c1", "fix-1", -3 * CREDIT, corrects=None, reason="test")
    await bank.operator.adjust("c2", "fix-2", 2 * CREDIT, corrects=None, reason="test")
    late = await bank.reserve("c3", "late", ttl_ms=1000)
    await bank.expire("c3", late)
    await bank.settle("c3", late, output=50)
    return bank


async def export(bank: Bank, path: Path) -> None:
    """Deliver all there is."""
    exporter = Exporter(bank.outbox, bank.operator, sqlite_sink(path), options=QUICK)
    exporter.begin()
    await exporter.drain(10)


async def look(bank: Bank, path: Path) -> Verified:
    with sqlite_access(path).open_or_empty() as store:
        return await verify(bank.audit, bank.outbox, store)


def said(verified: Verified) -> list[tuple[str, str]]:
    return [(drift.identity, drift.subject) for drift in verified.drifts]


async def test_an_empty_ledger_is_clean(bank: Bank, path: Path) -> None:
    assert (await look(bank, path)).clean


async def test_a_true_ledger_is_clean_before_during_and_after_delivery(
    busy: Bank, path: Path
) -> None:
    before = await look(busy, path)
    assert before.drifts == ()
    assert (before.wallets, before.holds) == (5, 5)
    assert before.events_in_outbox > 0
    await export(busy, path)
    after = await look(busy, path)
    assert after.drifts == ()
    assert after.events_in_outbox == 0
    assert after.events_stored == before.events_stored + before.events_in_outbox
    assert after.ended == before.ended == 12


async def test_a_ledger_at_work_is_clean_at_every_look(bank: Bank, path: Path) -> None:
    """Reserves, settles, expiries and deliveries go on while verify reads."""
    for number in range(6):
        await bank.open(f"c{number}", granted=1000)
    exporter = Exporter(bank.outbox, bank.operator, sqlite_sink(path), options=QUICK)
    exporter.begin()
    working = True

    async def work(worker: int) -> None:
        number = 0
        while working:
            customer, request = f"c{(worker + number) % 6}", f"w{worker}-{number}"
            hold = await bank.reserve(customer, request)
            if number % 3:
                await bank.settle(customer, hold, output=number % 50)
            elif number % 2:
                await bank.release(customer, hold)
            number += 1

    workers = [asyncio.create_task(work(n)) for n in range(8)]
    await asyncio.sleep(0.2)
    drifts = [(await look(bank, path)).drifts for _ in range(8)]
    working = False
    await asyncio.gather(*workers)
    await exporter.drain(10)
    assert drifts == [()] * 8
    last = await look(bank, path)
    assert last.drifts == ()
    assert last.events_stored > 100


async def test_a_store_that_has_not_begun_is_no_drift(bank: Bank, path: Path) -> None:
    await bank.open("c0")
    await bank.spend("c0", "r1")
    verified = await look(bank, path)
    assert verified.drifts == ()
    assert verified.events_in_outbox == 3  # account, grant, settle


ACCOUNT = struct.Struct("<BBBBBBBBddddddddddddd")


async def damage_wallet(bank: Bank, customer_id: str, index: int, by: int) -> None:
    """Change one number of an account record's header."""
    key: Any = bank.accounts.names.account(bank.accounts.names.shard_of(customer_id), customer_id)
    raw: Any = await bank.client.get(key)
    numbers = list(ACCOUNT.unpack_from(raw))
    numbers[index] += by
    await bank.client.set(key, ACCOUNT.pack(*numbers) + raw[ACCOUNT.size :])


@pytest.mark.parametrize(
    ("index", "identities"),
    [(10, {"money"}), (11, {"holds"}), (12, {"holds"}), (13, {"holds"})],
    ids=["overdraft", "held", "held on credit", "open"],
)
async def test_a_wallet_off_by_one_is_found(
    busy: Bank, path: Path, index: int, identities: set[str]
) -> None:
    await damage_wallet(busy, "c4", index, 1)
    assert set(said(await look(busy, path))) == {(identity, "c4") for identity in identities}


@pytest.mark.parametrize(
    "index",
    [14, 15, 16, 17, 18],
    ids=["granted", "settled", "expired", "voided", "adjusted"],
)
async def test_a_lifetime_sum_off_by_one_contradicts_remainders_and_events(
    busy: Bank, path: Path, index: int
) -> None:
    await damage_wallet(busy, "c4", index, 1)
    assert set(said(await look(busy, path))) == {("money", "c4"), ("events", "c4")}


async def test_a_lost_entry_of_the_outbox_is_found(busy: Bank, path: Path) -> None:
    shard = busy.accounts.names.shard_of("c4")
    entries: Any = await busy.client.xrange(f"{{cg:{shard}}}:out")
    await busy.client.xdel(f"{{cg:{shard}}}:out", entries[0][0])
    found = said(await look(busy, path))
    assert ("numbering", f"shard {shard}") in found
    assert any(identity == "events" for identity, _ in found)


async def test_an_event_lost_from_the_store_is_found(busy: Bank, path: Path) -> None:
    await export(busy, path)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM events WHERE event_id = 'waiting-2:settled'")
    found = said(await look(busy, path))
    assert ("events", "c2") in found
    assert ("events", "waiting-2:settled") in found
    assert ("numbering", f"shard {busy.accounts.names.shard_of('c2')}") in found


async def test_a_changed_amount_in_the_store_is_found(busy: Bank, path: Path) -> None:
    await export(busy, path)
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE events SET amount_nano = amount_nano + 1 WHERE event_id = 'stored-2:settled'"
        )
    assert set(said(await look(busy, path))) == {("events", "c2"), ("events", "stored-2:settled")}


async def test_a_replaced_store_is_found(busy: Bank, path: Path) -> None:
    await export(busy, path)
    await asyncio.to_thread(path.unlink)
    found = {identity for identity, _ in said(await look(busy, path))}
    assert found == {"delivery", "numbering", "events"}


async def test_a_ledger_that_lost_its_tail_is_found(busy: Bank, path: Path) -> None:
    await export(busy, path)
    shard = busy.accounts.names.shard_of("c4")
    raw: Any = await busy.client.get(f"{{cg:{shard}}}:meta")
    fields = list(struct.unpack("<BBHdddd", raw))
    fields[4] -= 1
    fields[5] -= 1
    await busy.client.set(f"{{cg:{shard}}}:meta", struct.pack("<BBHdddd", *fields))
    assert ("delivery", f"shard {shard}") in said(await look(busy, path))


async def test_a_hold_without_a_deadline_is_found(busy: Bank, path: Path) -> None:
    shard = busy.accounts.names.shard_of("c4")
    await busy.client.zrem(f"{{cg:{shard}}}:due", "pending-4")
    assert ("holds", "pending-4") in said(await look(busy, path))


async def test_a_deadline_without_a_hold_is_found(busy: Bank, path: Path) -> None:
    shard = busy.accounts.names.shard_of("c4")
    await busy.client.zadd(f"{{cg:{shard}}}:due", {"nobody": 1})
    assert ("records", f"shard {shard}") in said(await look(busy, path))


async def test_a_lost_wallet_is_found(busy: Bank, path: Path) -> None:
    shard = busy.accounts.names.shard_of("c4")
    await busy.client.delete(f"{{cg:{shard}}}:a:c4")
    found = said(await look(busy, path))
    assert ("records", f"shard {shard}") in found
    assert ("events", "c4") in found


async def test_dead_letters_and_anomalies_are_drift(busy: Bank, path: Path) -> None:
    shard = busy.accounts.names.shard_of("c4")
    meta: Any = await busy.client.get(f"{{cg:{shard}}}:meta")
    fields = list(struct.unpack("<BBHdddd", meta))
    fields[4] += 2
    await busy.client.xadd(
        f"{{cg:{shard}}}:out", {"s": "?", "f": "?"}, id=f"{fields[3]:.0f}-{fields[4]:.0f}"
    )
    await busy.client.set(f"{{cg:{shard}}}:meta", struct.pack("<BBHdddd", *fields))
    await export(busy, path)
    found = said(await look(busy, path))
    assert ("numbering", f"shard {shard}") in found
    assert any(identity == "delivery" for identity, _ in found)


async def test_progress_is_told_to_the_end(busy: Bank, path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with SqliteStore.at(path) as store:
        await verify(busy.audit, busy.outbox, store, lambda *step: told.append(step))
    assert told[-1] == ("shards", 4, 4)
