"""Off the hot path: creation, lists, keys, prices, the runner; and the identities find what is wrong."""

import struct

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.domain.limits import Limit
from gateway.domain.pricing import compile_prices, per_unit
from gateway.domain.reservation import Key
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.errors import LedgerRefusal, LedgerUnavailable
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.scripts import load_scripts
from gateway.ledger.creation import OtherLedger
from gateway.ledger.prices import PricesChanged
from tests.ledger.bench import Bench
from tests.support.loose_ledger import LooseLedger

SHARDS = 4


@pytest.fixture
def store(valkey: redis.asyncio.Redis) -> AccountStore:
    return AccountStore(valkey, shard_count=SHARDS)


@pytest.fixture
def ledger(valkey: redis.asyncio.Redis) -> LooseLedger:
    return LooseLedger(RedisRunner(valkey), shard_count=SHARDS)


async def test_the_number_of_shards_is_fixed_at_creation(
    valkey: redis.asyncio.Redis, store: AccountStore
) -> None:
    await store.creation.record()
    await store.creation.record()
    with pytest.raises(OtherLedger, match="with 4 shards, not 64; set"):
        await AccountStore(valkey).creation.record()
    await AccountStore(valkey, namespace="other").creation.record()


async def test_another_layout_is_refused(valkey: redis.asyncio.Redis, store: AccountStore) -> None:
    await store.creation.record()
    wrote = valkey.hset("{cg}:creation", "layout", "2")
    assert not isinstance(wrote, int)
    await wrote
    with pytest.raises(OtherLedger, match="layout 2"):
        await store.creation.record()


async def test_customers_and_wallets_are_listed(store: AccountStore, ledger: LooseLedger) -> None:
    names = [f"c{number}" for number in range(9)]
    for name in names:
        await ledger.account(name, account_rev=3)
    await ledger.grant("c4", "g1", 5)
    assert await store.wallets.customers() == names
    wallets = await store.wallets.read([*names, "nobody"])
    assert set(wallets) == set(names)
    assert wallets["c4"].balance_nano(await store.now_ms()) == 5
    assert await store.wallets.account_rev("c4") == 3
    assert await store.wallets.account_rev("nobody") is None


async def test_open_holds_are_listed_soonest_first(valkey: redis.asyncio.Redis) -> None:
    bench = await Bench(valkey).open(1000)
    await bench.held("late", 10, ttl_ms=90_000)
    await bench.held("soon", 20)
    await bench.settle("gone", 1)
    holds = await bench.store.holds.open_holds()
    assert [hold.reservation_id for hold in holds] == ["soon", "late"]
    assert await bench.store.holds.open_holds("acme") == holds
    assert await bench.store.holds.open_holds("other") == []


async def test_due_reservations_are_bounded_and_expire(valkey: redis.asyncio.Redis) -> None:
    bench = await Bench(valkey).open(1000)
    for number in range(7):
        await bench.held(f"r{number}", 10, floor=3)
    await bench.settle("r6", 1)
    await valkey.zadd("{cg:0}:due", {"stray": 1})
    bench.now += 60_000
    due = await bench.store.holds.due(limit=4)
    assert len(due) == 4
    outcomes = [await bench.ledger.expire(reservation) for reservation in due]
    assert sum(outcome is None for outcome in outcomes) == 1  # the stray one is struck off
    rest = await bench.store.holds.due()
    assert len(rest) == 3
    for reservation in rest:
        expired = await bench.ledger.expire(reservation)
        assert expired is not None
        assert expired.charged_nano == 3
    assert await bench.store.holds.due() == []
    assert await bench.differences() == []


async def test_a_revoked_key_is_gone_and_its_account_stale(
    store: AccountStore, ledger: LooseLedger
) -> None:
    await ledger.account("acme", account_rev=1)
    await store.keys.add("d1", "k1", "acme", "team")
    await store.keys.add("d2", "k2", "acme")
    assert await store.keys.find("d1") == Key("k1", "acme", "team")
    with pytest.raises(ValueError, match="k1 already"):
        await store.keys.add("d3", "k1", "acme")
    with pytest.raises(ValueError, match="in the directory"):
        await store.keys.add("d1", "k3", "acme")
    revoked = await store.keys.revoke(ledger.wallets, "k1")
    assert revoked is not None
    assert revoked.revoked_at_ms is not None
    assert await store.keys.find("d1") is None
    assert await store.wallets.account_rev("acme") == 2
    assert [key.key_id for key in await store.keys.entries("acme")] == ["k1", "k2"]
    assert await store.keys.entries("other") == []
    assert await store.keys.revoke(ledger.wallets, "nobody") is None
    again = await store.keys.revoke(ledger.wallets, "k1")
    assert again == revoked


async def test_a_price_version_is_put_once(
    valkey: redis.asyncio.Redis, store: AccountStore
) -> None:
    table = compile_prices({"input": 1500, "output": 7}, {"input": 3})
    await store.prices.put([table])
    await store.prices.put([table, compile_prices({"input": 1})])
    await store.prices.put([])
    assert await store.prices.find(table.price_version) == (
        {"input": per_unit("input", 1500), "output": per_unit("output", 7)},
        {"input": 3, "output": 0},
    )
    assert await store.prices.find("p_unknown") is None
    await valkey.hset("{cg}:prices", table.price_version, b"other")
    with pytest.raises(PricesChanged):
        await store.prices.put([table])


async def test_refusals_name_the_word(ledger: LooseLedger) -> None:
    await ledger.account("acme", account_rev=1)
    await ledger.bump("acme")
    with pytest.raises(LedgerRefusal) as refused:
        await ledger.account("acme", account_rev=1)
    assert (refused.value.word, refused.value.account_rev) == ("old_revision", 2)
    with pytest.raises(LedgerRefusal, match="unknown_account"):
        await ledger.grant("nobody", "g1", 5)
    with pytest.raises(ValueError, match="an amount must be 0 … "):
        await ledger.grant("acme", "g1", 9 * 10**15 + 1)


async def test_the_runner_loads_scripts_that_the_server_forgot(
    valkey: redis.asyncio.Redis, ledger: LooseLedger
) -> None:
    await ledger.account("acme", account_rev=1)
    await valkey.script_flush()
    assert not (await ledger.account("acme", account_rev=1)).changed


async def test_the_runner_says_when_the_outcome_is_unknown() -> None:
    nowhere = redis.asyncio.Redis(port=1, retry=Retry(NoBackoff(), 0))
    with pytest.raises(LedgerUnavailable) as lost:
        await RedisRunner(nowhere).run(load_scripts()["ack"], [b"k", b"l"], [b""])
    assert lost.value.unknown
    with pytest.raises(LedgerUnavailable):
        await AccountStore(nowhere).wallets.customers()


HEADER = struct.Struct("<BBBBBBBB14d")


@pytest.mark.parametrize(
    ("field", "what"),
    [
        (10, "remainders less overdraft"),
        (11, "held"),
        (12, "held on the credit limit"),
        (13, "open reservations"),
        (14, "remainders less overdraft"),
        (15, "remainders less overdraft"),
        (16, "remainders less overdraft"),
        (18, "remainders less overdraft"),
    ],
)
async def test_a_wallet_off_by_one_differs(
    valkey: redis.asyncio.Redis, field: int, what: str
) -> None:
    bench = await Bench(valkey).open(1000, Limit("key", "spend", "day", 500))
    await bench.held("r1", 100)
    assert await bench.differences() == []
    record = await bench.client.get("{cg:0}:a:acme")
    numbers = list(HEADER.unpack_from(record))
    numbers[field] += 1
    await bench.client.set("{cg:0}:a:acme", HEADER.pack(*numbers) + record[HEADER.size :])
    assert what in {difference.what for difference in await bench.differences()}


async def test_a_leaked_counter_or_hold_differs(valkey: redis.asyncio.Redis) -> None:
    limit = Limit("key", "spend", "day", 500)
    bench = await Bench(valkey).open(1000, limit)
    await bench.held("r1", 100)
    await bench.client.zrem("{cg:0}:due", "r1")  # nobody will ever expire it
    found = {str(difference) for difference in await bench.differences()}
    assert "acme: held is 100, derived 0" in found
    assert f"acme: held of counter {limit.counter_id} of key k1 is 100, derived 0" in found
    assert "acme: held of grant 1 is 100, derived 0" in found
