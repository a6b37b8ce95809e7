"""Many customers and keys written at once keep the invariants of those that are written one by one."""

import pytest
import redis.asyncio

from gateway.domain.customers import CustomerRecord
from gateway.ledger.accounts import AccountStore
from gateway.ledger.codec.stored_keys import StoredKey


@pytest.fixture
def store(valkey: redis.asyncio.Redis) -> AccountStore:
    return AccountStore(valkey, shard_count=4)


def customer(name: str, stripe: str) -> CustomerRecord:
    return CustomerRecord(name, 5, external_ids={"stripe": stripe})


async def test_new_records_are_found_by_every_way_in(store: AccountStore) -> None:
    records = [customer(f"c{number:03d}", f"cus_{number}") for number in range(50)]
    assert await store.bulk.create(records) == {}
    assert list((await store.customers.page()).records) == records
    assert await store.customers.find_external("stripe", "cus_7") == records[7]


async def test_a_record_that_is_there_is_not_replaced(store: AccountStore) -> None:
    await store.customers.create(CustomerRecord("acme", 5, plan="pro"))
    refused = await store.bulk.create([CustomerRecord("acme", 6), CustomerRecord("new", 6)])
    assert refused == {"acme": "there is, or was, a customer acme already"}
    assert await store.customers.read("acme") == CustomerRecord("acme", 5, plan="pro")
    assert await store.customers.read("new") == CustomerRecord("new", 6)


async def test_a_deleted_customer_is_not_listed_again(store: AccountStore) -> None:
    before = CustomerRecord("acme", 5)
    await store.customers.create(before)
    await store.customers.replace(before, CustomerRecord("acme", 5, status="deleted"))
    assert "acme" in await store.bulk.create([before])
    assert await store.customers.count() == 0


async def test_external_ids_of_others_are_refused_and_abandoned_ones_taken_over(
    store: AccountStore, valkey: redis.asyncio.Redis
) -> None:
    await store.customers.create(customer("acme", "cus_1"))
    await valkey.hset(store.names.common("external"), "stripe:cus_2", "nobody")
    refused = await store.bulk.create([customer("a", "cus_1"), customer("b", "cus_2")])
    assert refused == {"a": "acme has the external id stripe:cus_1 already"}
    assert await store.customers.read("a") is None
    found = await store.customers.find_external("stripe", "cus_2")
    assert found is not None
    assert found.customer_id == "b"
    wanted = [("stripe", "cus_1"), ("stripe", "cus_2"), ("stripe", "cus_3")]
    owners = await store.bulk.external_owners(wanted)
    assert owners == {"stripe:cus_1": "acme", "stripe:cus_2": "b"}


async def test_keys_are_added_once_and_listed(store: AccountStore) -> None:
    first = StoredKey("d1", "k_1", "acme", None, 5)
    assert await store.bulk.add_keys([first]) == set()
    others = [StoredKey("d1", "k_9", "evil", None, 6), StoredKey("d2", "k_2", "acme", None, 6)]
    assert await store.bulk.add_keys(others) == {"d1"}
    assert await store.bulk.keys_by_digest(["d1", "d3"]) == {"d1": first}
    assert [key.key_id for key in await store.keys.entries("acme")] == ["k_1", "k_2"]
    assert await store.keys.by_id("k_2") == others[1]
