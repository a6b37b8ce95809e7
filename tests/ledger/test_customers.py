"""The directory of customers: created once, changed by one writer at a time, listed page by page."""

from dataclasses import replace

import pytest
import redis
import redis.asyncio
from msgpack import packb, unpackb

from gateway.domain.customers import CustomerRecord
from gateway.domain.key_terms import KeyTerms
from gateway.domain.limits import Limit
from gateway.ledger import customers as module
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.codec.customer_records import pack_customer, read_customer
from gateway.ledger.codec.stored_keys import StoredKey, pack_key, read_key
from gateway.ledger.customers import CustomerChanged, CustomerExists, ExternalIdTaken
from tests.support.loose_ledger import LooseLedger

SHARDS = 4
FULL = CustomerRecord(
    "acme",
    1_800_000_000_000,
    plan="starter",
    status="suspended",
    name="Acme Ltd",
    email="billing@acme.example",
    external_ids={"stripe": "cus_1"},
    tags={"region": "eu"},
    credit_limit_nano=0,
    billing_day=31,
    models=frozenset(),
    limits=(Limit("model", "spend", "day", 5, True, "small"),),
    projects={"web": (Limit("project", "requests", "minute", 9),)},
    prices={"small": "v1"},
    terms_digest="abc",
)


@pytest.fixture
def store(valkey: redis.asyncio.Redis) -> AccountStore:
    return AccountStore(valkey, shard_count=SHARDS)


@pytest.mark.parametrize("record", [CustomerRecord("acme", 5), FULL])
def test_a_record_is_read_as_it_was_packed(record: CustomerRecord) -> None:
    assert read_customer("acme", pack_customer(record)) == record


def test_a_record_keeps_only_what_differs_from_the_defaults() -> None:
    assert unpackb(pack_customer(CustomerRecord("acme", 5))) == {"created_at_ms": 5}
    newer = packb({"created_at_ms": 5, "not_known_yet": 1})
    assert read_customer("acme", newer) == CustomerRecord("acme", 5)


TERMS = KeyTerms(
    "ci", 7, frozenset({"small"}), (Limit("key", "spend", "day", 5),), ("10.0.0.0/8",), True, "abcd"
)


@pytest.mark.parametrize(
    "key",
    [
        StoredKey("d1", "k1", "acme", None, 5),
        StoredKey("d1", "k1", "acme", "web", 5, 6),
        StoredKey("d1", "k1", "acme", "web", 5, 6, TERMS, "k2"),
        StoredKey("d1", "k1", "acme", None, 5, terms=KeyTerms(models=frozenset())),
    ],
)
def test_a_key_is_read_as_it_was_packed(key: StoredKey) -> None:
    assert read_key(b"d1", pack_key(key)) == key


def test_a_key_of_five_fields_is_read() -> None:
    assert read_key(b"d1", packb(["k1", "acme", None, 5, None])) == StoredKey(
        "d1", "k1", "acme", None, 5
    )


async def test_a_customer_is_created_once(store: AccountStore) -> None:
    directory = store.customers
    assert await directory.read("acme") is None
    await directory.create(FULL)
    assert await directory.read("acme") == FULL
    with pytest.raises(CustomerExists):
        await directory.create(CustomerRecord("acme", 6))
    assert await directory.read("acme") == FULL
    assert await directory.read_many(["acme", "nobody"]) == {"acme": FULL}
    assert await directory.count() == 1


async def test_a_record_changes_only_from_what_its_writer_has_read(store: AccountStore) -> None:
    before, mine, theirs = (CustomerRecord("acme", 5, name=name) for name in ("a", "b", "c"))
    await store.customers.create(before)
    await store.customers.replace(before, theirs)
    with pytest.raises(CustomerChanged):
        await store.customers.replace(before, mine)
    with pytest.raises(CustomerChanged):
        await store.customers.replace(CustomerRecord("nobody", 5), CustomerRecord("nobody", 6))
    assert await store.customers.read("acme") == theirs


async def test_a_change_between_a_writer_s_read_and_its_write_is_noticed(
    valkey: redis.asyncio.Redis, store: AccountStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = CustomerRecord("acme", 5)
    await store.customers.create(before)
    key = store.names.record(store.names.shard_of("acme"), "acme")

    def interrupted(record: CustomerRecord) -> bytes:
        # What is packed is written next: somebody else is faster.
        address = valkey.connection_pool.connection_kwargs["path"]
        with redis.Redis(unix_socket_path=address) as other:
            other.set(key, pack_customer(CustomerRecord("acme", 5, name="theirs")))
        return pack_customer(record)

    monkeypatch.setattr(module, "pack_customer", interrupted)
    with pytest.raises(CustomerChanged):
        await store.customers.replace(before, CustomerRecord("acme", 5, name="mine"))
    found = await store.customers.read("acme")
    assert found is not None
    assert found.name == "theirs"


async def test_every_customer_is_listed_once_in_the_order_of_ids(store: AccountStore) -> None:
    ids = sorted(f"c{number:03}" for number in range(57))
    for name in ids:
        await store.customers.create(CustomerRecord(name, 5))
    seen, after = [], ""
    while True:
        page = await store.customers.page(after=after, limit=10)
        assert len(page.records) <= 10
        seen += [record.customer_id for record in page.records]
        if page.after is None:
            break
        after = page.after
    assert seen == ids
    some = await store.customers.page(prefix="c01", limit=4)
    assert [each.customer_id for each in some.records] == ["c010", "c011", "c012", "c013"]
    rest = await store.customers.page(prefix="c01", after=some.after or "")
    assert [each.customer_id for each in rest.records] == [f"c01{n}" for n in range(4, 10)]


async def test_a_deleted_customer_is_not_listed_and_its_id_is_never_used_again(
    store: AccountStore,
) -> None:
    before, gone = CustomerRecord("acme", 5, name="A"), CustomerRecord("acme", 5, status="deleted")
    await store.customers.create(before)
    await store.customers.replace(before, gone)
    assert (await store.customers.page()).records == ()
    assert await store.customers.count() == 0
    with pytest.raises(CustomerExists):
        await store.customers.create(before)
    assert await store.customers.read("acme") == gone


async def test_an_external_id_belongs_to_one_customer_until_it_gives_it_up(
    valkey: redis.asyncio.Redis, store: AccountStore
) -> None:
    directory = store.customers
    one = CustomerRecord("one", 5, external_ids={"stripe": "cus_1"})
    two = CustomerRecord("two", 5)
    await directory.create(one)
    await directory.create(two)
    assert await directory.find_external("stripe", "cus_1") == one
    taking = CustomerRecord("two", 5, external_ids={"stripe": "cus_1"})
    with pytest.raises(ExternalIdTaken, match="one has the external id stripe:cus_1"):
        await directory.replace(two, taking)
    await directory.replace(one, CustomerRecord("one", 5))
    assert await directory.find_external("stripe", "cus_1") is None
    await directory.replace(two, taking)
    assert await directory.find_external("stripe", "cus_1") == taking
    # Left by a writer that failed before its record was written.
    await valkey.hset(store.names.common("external"), "crm:7", "nobody")
    await directory.replace(
        one_now := CustomerRecord("one", 5),
        mine := CustomerRecord("one", 5, external_ids={"crm": "7"}),
    )
    assert one_now != mine
    assert await directory.find_external("crm", "7") == mine


async def test_keys_of_a_ledger_without_indexes_are_entered(
    valkey: redis.asyncio.Redis, store: AccountStore
) -> None:
    old = packb(["k1", "acme", None, 5, None])
    await valkey.hset(store.names.common("keys"), "d1", old)
    [found] = await store.keys.entries("acme")
    assert found.key_id == "k1"
    assert (await store.keys.by_id("k1")) == found
    with pytest.raises(ValueError, match="k1 already"):
        await store.keys.add("d2", "k1", "acme")


async def test_an_account_is_read_with_its_record_and_key_in_one_round_trip(
    valkey: redis.asyncio.Redis, store: AccountStore
) -> None:
    ledger = LooseLedger(RedisRunner(valkey), shard_count=SHARDS)
    await ledger.account("acme", account_rev=3)
    await store.customers.create(FULL)
    await store.keys.add("d1", "k1", "acme", "web")
    before = await valkey.info("stats")
    found = await store.keys.read_account("acme", "acme", "d1")
    after = await valkey.info("stats")
    assert (found.account_rev, found.record) == (3, FULL)
    assert found.key is not None
    assert found.key.key_id == "k1"
    assert after["total_reads_processed"] - before["total_reads_processed"] == 2, (
        "one packet for the pipeline, one for INFO"
    )
    await store.keys.revoke(ledger.wallets, "k1")
    assert (await store.keys.read_account("acme", "acme", "d1")).key is None
    nothing = await store.keys.read_account("nobody", "nobody", "")
    assert (nothing.account_rev, nothing.record, nothing.key) == (None, None, None)


async def test_uses_of_keys_are_written_together_and_strangers_are_left_out(
    store: AccountStore,
) -> None:
    await store.keys.add("d1", "k1", "acme")
    uses = store.key_uses
    uses.note("k1", 5)
    uses.note("k1", 7)
    uses.note("named-by-a-gateway-in-front", 7)
    assert await uses.read(["k1"]) == {}
    await uses.write()
    assert await uses.read(["k1", "named-by-a-gateway-in-front"]) == {"k1": 7}


async def test_the_customers_of_each_plan_are_counted(store: AccountStore) -> None:
    directory = store.customers
    for name, plan in (("a", "starter"), ("b", "starter"), ("c", "pro"), ("d", None)):
        await directory.create(CustomerRecord(name, 0, plan))
    assert await directory.plan_counts() == {"starter": 2, "pro": 1}
    moved = CustomerRecord("b", 0, "pro")
    await directory.replace(CustomerRecord("b", 0, "starter"), moved)
    await directory.replace(moved, replace(moved, name="Bea"))
    assert await directory.plan_counts() == {"starter": 1, "pro": 2}
    for gone in (CustomerRecord("a", 0, "starter"), CustomerRecord("c", 0, "pro")):
        await directory.replace(gone, replace(gone, status="deleted"))
        await directory.replace(replace(gone, status="deleted"), replace(gone, status="deleted"))
    assert await directory.plan_counts() == {"pro": 1}


async def test_customers_that_are_written_in_bulk_are_counted_once(store: AccountStore) -> None:
    records = [CustomerRecord(f"c{number}", 0, "starter") for number in range(5)]
    assert await store.bulk.create(records[:3]) == {}
    assert set(await store.bulk.create(records)) == {"c0", "c1", "c2"}
    await store.bulk.enter(records)
    assert await store.customers.plan_counts() == {"starter": 5}
    assert await store.customers.count() == 5
