"""What `GET /v1/credits` reads: the wallet as it is now, today's charges from the real store."""

from pathlib import Path

import pytest
import redis.asyncio

from gateway.app.balance import BalanceReader
from gateway.app.daily_charges import DAY_MS, DailyCharges
from gateway.domain.delivery import START
from gateway.domain.event_rows import row_of
from gateway.domain.events import Event
from gateway.domain.reservation import Account
from gateway.exporter.sink import Batch
from tests.support.bank import CREDIT, Bank
from tests.support.outbox_entries import read_entries
from tests.support.stores import sqlite_access, sqlite_sink

ACME = Account("acme", "k1", 0, 1)


async def export(bank: Bank, events_db: Path) -> None:
    """Everything in the outbox, into the store."""
    sink = sqlite_sink(events_db)
    await sink.open()
    for _, entries in await read_entries(bank.outbox, dict.fromkeys(range(4), START), limit=1000):
        events = [entry for entry in entries if isinstance(entry, Event)]
        await sink.write(Batch([row_of(event) for event in events]))
    await sink.close()


@pytest.fixture
async def bank(valkey: redis.asyncio.Redis) -> Bank:
    opened = Bank(valkey)
    await opened.open("acme")
    await opened.open("other")
    return opened


async def test_a_wallet_is_read_as_it_is_now(bank: Bank, tmp_path: Path) -> None:
    settled = await bank.spend("acme", "r1")
    hold = await bank.reserve("acme", "r2")
    balance = await BalanceReader(bank.accounts, sqlite_access(tmp_path / "events.db")).read(ACME)
    assert balance is not None
    assert balance.granted_nano == 10 * CREDIT
    assert balance.settled_nano == settled.charged_nano
    assert balance.held_nano == hold.held_nano
    assert balance.balance_nano == 10 * CREDIT - settled.charged_nano
    assert balance.available_nano == balance.balance_nano - hold.held_nano
    assert balance.settled_today_nano is None, "there is no store yet"


async def test_who_has_no_wallet_has_no_balance(bank: Bank, tmp_path: Path) -> None:
    reader = BalanceReader(bank.accounts, sqlite_access(tmp_path / "events.db"))
    assert await reader.read(Account("nobody", "k", 0, 1)) is None


async def test_today_is_what_was_charged_since_midnight_utc_of_this_customer_alone(
    bank: Bank, tmp_path: Path
) -> None:
    events_db = tmp_path / "odd ?#% name" / "events.db"
    events_db.parent.mkdir()
    now_ms = await bank.accounts.now_ms()
    midnight_ms = now_ms - now_ms % DAY_MS + DAY_MS
    bank.now_ms = midnight_ms - 1
    early = await bank.spend("acme", "the day before")
    bank.now_ms = midnight_ms
    late = await bank.spend("acme", "that day")
    await bank.spend("other", "theirs")
    await bank.release("acme", await bank.reserve("acme", "released"))
    await export(bank, events_db)
    daily = DailyCharges(sqlite_access(events_db))
    assert await daily.since_midnight("acme", midnight_ms - 1) == (
        early.charged_nano + late.charged_nano
    ), "of that day, and of what came after it"
    assert await daily.since_midnight("acme", midnight_ms) == late.charged_nano
    assert await daily.since_midnight("acme", midnight_ms + DAY_MS) == 0
    balance = await BalanceReader(bank.accounts, sqlite_access(events_db)).read(ACME)
    assert balance is not None
    assert balance.settled_today_nano is not None


async def test_a_store_that_cannot_be_read_leaves_today_unsaid(bank: Bank, tmp_path: Path) -> None:
    events_db = tmp_path / "events.db"
    events_db.write_text("this is no database, and long enough to be looked at as one" * 20)
    balance = await BalanceReader(bank.accounts, sqlite_access(events_db)).read(ACME)
    assert balance is not None
    assert balance.settled_today_nano is None
