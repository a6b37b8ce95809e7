"""When keys were used last: noted in memory, written in batches, bounded, and no request waits for it."""

import asyncio

import pytest
import redis.asyncio

from gateway.ledger import key_uses as module
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.errors import LedgerUnavailable
from tests.support.until import until


@pytest.fixture
async def store(valkey: redis.asyncio.Redis) -> AccountStore:
    opened = AccountStore(valkey, shard_count=4)
    for name in ("k1", "k2"):
        await opened.keys.add(f"digest-{name}", name, "acme")
    return opened


async def test_the_last_of_several_uses_is_kept_and_strangers_are_not(store: AccountStore) -> None:
    for key_id, at_ms in (("k1", 1000), ("k2", 1500), ("k1", 2000), ("named by a gateway", 3000)):
        store.key_uses.note(key_id, at_ms)
    assert await store.key_uses.read(["k1", "k2"]) == {}, "nothing is written per use"
    await store.key_uses.write()
    assert await store.key_uses.read(["k1", "k2", "k3"]) == {"k1": 2000, "k2": 1500}
    assert await store.key_uses.read(["named by a gateway"]) == {}


async def test_no_more_keys_are_noted_than_the_bound(
    store: AccountStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_NOTED", 1)
    store.key_uses.note("k1", 1000)
    store.key_uses.note("k2", 1000)
    await store.key_uses.write()
    assert await store.key_uses.read(["k1", "k2"]) == {"k1": 1000}


async def test_the_loop_goes_on_after_a_ledger_that_does_not_answer(
    store: AccountStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WRITE_EVERY_S", 0.01)
    uses, failed = store.key_uses, asyncio.Event()
    write = uses.write

    async def fail_once() -> None:
        if not failed.is_set():
            failed.set()
            raise LedgerUnavailable("away")
        await write()

    monkeypatch.setattr(type(uses), "write", lambda _: fail_once())
    uses.note("k1", 1000)
    running = asyncio.create_task(uses.run())
    try:

        async def written() -> bool:
            return await uses.read(["k1"]) == {"k1": 1000}

        await until(written)
    finally:
        running.cancel()
    assert failed.is_set()
