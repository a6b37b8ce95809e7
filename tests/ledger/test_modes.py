"""Modes in the ledger, and the wallets that shadow mode opens, on a real server."""

import asyncio

import pytest
import redis.asyncio
from msgpack import packb

from gateway.domain.modes import SetMode
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.mode_records import pack_mode, read_mode
from gateway.ledger.modes import NOTHING_SET, ModeStore
from gateway.ledger.shadow_wallets import ShadowWallets
from tests.support.bank import CREDIT, Bank

SHADOW = "acme~shadow"
BYPASS = SetMode("bypass", "s1", 5, "command:ann", "a drill")


@pytest.fixture
def bank(valkey: redis.asyncio.Redis) -> Bank:
    return Bank(valkey)


@pytest.fixture
def store(bank: Bank) -> ModeStore:
    return bank.accounts.modes


@pytest.fixture
def shadows(bank: Bank) -> ShadowWallets:
    names, reader = bank.accounts.names, bank.accounts.wallets
    return ShadowWallets(bank.ledger.wallets, reader, bank.client, names)


async def test_what_is_set_is_read_back_and_reset(store: ModeStore) -> None:
    assert await store.read() is NOTHING_SET
    await store.set(None, BYPASS)
    await store.set("acme", SetMode("shadow", "s2", 6, "token:t1", "first"))
    found = await store.read()
    assert found.everything == BYPASS
    assert found.customers == {"acme": SetMode("shadow", "s2", 6, "token:t1", "first")}
    assert await store.read(found) is found, "nothing has changed"
    await store.reset(None)
    again = await store.read(found)
    assert again.everything is None
    assert list(again.customers) == ["acme"]
    await store.reset("acme")
    assert (await store.read(again)).customers == {}


async def test_an_emptied_ledger_has_no_modes_any_more(bank: Bank, store: ModeStore) -> None:
    await store.set(None, BYPASS)
    found = await store.read()
    await bank.client.flushall()
    emptied = await store.read(found)
    assert emptied.everything is None


def test_a_record_that_is_not_understood_enforces() -> None:
    assert read_mode(pack_mode(BYPASS)) == BYPASS
    assert read_mode(packb([*("bypass", "s1", 5, "command:ann", "a drill"), "later"])) == BYPASS
    assert read_mode(packb(["observe", "s1", 5, "command:ann", "a drill"])).mode == "enforce"
    assert read_mode(b"\xc1").mode == "enforce"
    assert read_mode(packb(7)).mode == "enforce"


async def test_a_shadow_wallet_opens_with_what_is_free_and_the_live_terms(
    bank: Bank, shadows: ShadowWallets
) -> None:
    await bank.open("acme", granted=10)
    await bank.operator.account("acme", account_rev=2, credit_limit_nano=3 * CREDIT)
    assert await shadows.open("acme", "s1") == 1
    wallet = (await bank.accounts.wallets.read([SHADOW]))[SHADOW]
    assert (wallet.balance_nano(1), wallet.credit_limit_nano) == (10 * CREDIT, 3 * CREDIT)
    live = (await bank.accounts.wallets.read(["acme"]))["acme"]
    assert (live.balance_nano(1), live.adjusted_nano, live.account_rev) == (10 * CREDIT, 0, 2)


async def test_what_running_requests_hold_is_not_opened_with(
    bank: Bank, shadows: ShadowWallets
) -> None:
    await bank.open("acme", granted=10)
    hold = await bank.reserve("acme", "r1")
    await shadows.open("acme", "s1")
    wallet = (await bank.accounts.wallets.read([SHADOW]))[SHADOW]
    assert wallet.balance_nano(1) == 10 * CREDIT - hold.held_nano


async def test_it_is_opened_once_for_each_switch_whoever_does_it(
    bank: Bank, shadows: ShadowWallets
) -> None:
    await bank.open("acme", granted=10)
    await asyncio.gather(*(shadows.open("acme", "s1") for _ in range(6)))
    await bank.operator.adjust(SHADOW, "spent", -4 * CREDIT, corrects=None, reason="test")
    await shadows.open("acme", "s1")
    assert await balance(bank) == 6 * CREDIT
    await shadows.open("acme", "s2")
    assert await balance(bank) == 10 * CREDIT
    await bank.operator.adjust(SHADOW, "given", 5 * CREDIT, corrects=None, reason="test")
    await shadows.open("acme", "s3")
    assert await balance(bank) == 10 * CREDIT


async def test_a_wallet_without_credit_opens_once_too(bank: Bank, shadows: ShadowWallets) -> None:
    await bank.open("acme", granted=0)
    await shadows.open("acme", "s1")
    await bank.operator.adjust(SHADOW, "spent", -4 * CREDIT, corrects=None, reason="test")
    await shadows.open("acme", "s1")
    assert await balance(bank) == -4 * CREDIT


async def test_new_terms_of_the_live_wallet_reach_the_shadow_at_the_next_switch(
    bank: Bank, shadows: ShadowWallets
) -> None:
    await bank.open("acme")
    assert await shadows.open("acme", "s1") == 1
    await bank.operator.account(SHADOW, account_rev=2, frozen=True)
    await bank.operator.account("acme", account_rev=2, credit_limit_nano=CREDIT)
    assert await shadows.open("acme", "s2") == 3
    wallet = (await bank.accounts.wallets.read([SHADOW]))[SHADOW]
    assert (wallet.status, wallet.credit_limit_nano) == ("active", CREDIT)


async def test_a_customer_without_a_wallet_has_no_shadow(shadows: ShadowWallets) -> None:
    with pytest.raises(LedgerUnavailable, match="has no wallet of nobody"):
        await shadows.open("nobody", "s1")


async def balance(bank: Bank) -> int:
    return (await bank.accounts.wallets.read([SHADOW]))[SHADOW].balance_nano(1)
