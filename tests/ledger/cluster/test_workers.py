"""Loops of workers on a cluster of which a node is away: the others' shards are worked on as ever."""

import asyncio
from typing import Any

import pytest

from gateway.domain.customers import CustomerRecord
from gateway.flow.sweeper import Sweeper
from gateway.ledger.accounts import AccountStore
from gateway.ledger.changes import Changes
from gateway.ledger.client.cluster.endpoint import ClusterEndpoint
from gateway.ledger.client.errors import LedgerUnavailable
from loadtest.topology.cluster import Cluster
from tests.support.bank import Bank
from tests.support.clusters import KEYS, away, customers_of, ordinary
from tests.support.until import until

ALL = set(range(KEYS.shard_count))


@pytest.fixture
def bank(client: Any) -> Bank:
    return Bank(client, KEYS.shard_count)


async def overdue(bank: Bank) -> dict[str, str]:
    """A hold in every shard whose deadline has passed; customer → reservation."""
    holds = {}
    for name in customers_of(ALL):
        await bank.open(name)
        holds[name] = (await bank.reserve(name, f"r-{name}", ttl_ms=1000)).reservation_id
    await asyncio.sleep(1.05)
    return holds


async def test_holds_of_the_other_nodes_expire_and_those_of_one_that_is_back_get_patience(
    cluster: Cluster, client: Any, bank: Bank
) -> None:
    holds = await overdue(bank)
    sweeper = Sweeper(bank.ledger.reservations, bank.accounts, patience_s=0.5)
    async with away(cluster, ordinary(cluster), client) as shards:
        assert await sweeper.sweep() == len(ALL - shards)
        assert await sweeper.sweep() == 0
    assert await sweeper.sweep() == 0, "gates deliver first what has ended meanwhile"
    left = {hold.shard for hold in await bank.accounts.holds.open_holds()}
    assert left == shards

    async def swept() -> bool:
        await sweeper.sweep()
        return not await bank.accounts.holds.open_holds()

    await until(swept)
    for name, reservation_id in holds.items():
        record = await bank.accounts.holds.reservation(name, reservation_id)
        assert getattr(record, "outcome", None) == "expired"


async def test_wallets_of_the_other_nodes_are_swept(
    cluster: Cluster, client: Any, bank: Bank
) -> None:
    for name in customers_of(ALL):
        await bank.open(name, granted=0)
        now_ms = await bank.accounts.now_ms()
        await bank.operator.grant(name, "g", 5, expires_at_ms=now_ms + 500)
    await asyncio.sleep(0.6)
    sweeper = Sweeper(bank.ledger.reservations, bank.accounts)
    async with away(cluster, ordinary(cluster), client) as shards:
        assert await sweeper.sweep_wallets() == len(ALL - shards)
    assert await sweeper.sweep_wallets() == len(shards)


async def test_a_walk_over_customers_visits_the_other_nodes_and_says_that_it_is_incomplete(
    cluster: Cluster, client: Any
) -> None:
    store = AccountStore(client, shard_count=KEYS.shard_count)
    for name in customers_of(ALL, 2):
        await store.customers.create(CustomerRecord(name, 0, "free"))
    assert await store.customers.count() == 16
    async with away(cluster, ordinary(cluster), client) as shards:
        seen: list[str] = []

        async def walk() -> None:
            async for records in store.customers.walk():
                seen.extend(record.customer_id for record in records)

        with pytest.raises(LedgerUnavailable, match="is away"):
            await walk()
        assert sorted(seen) == customers_of(ALL - shards, 2)
        assert await store.customers.plan_counts(reached=True) == {"free": len(seen)}
        for question in (store.customers.plan_counts(), store.customers.count()):
            with pytest.raises(LedgerUnavailable, match=r"node 127.0.0.1:\d+ is away"):
                await question
        with pytest.raises(LedgerUnavailable, match="is away"):
            await store.wallets.customers()


async def test_announcements_are_heard_at_another_node_when_one_is_lost(
    cluster: Cluster, endpoint: ClusterEndpoint, client: Any
) -> None:
    heard: list[str] = []
    listening = asyncio.Event()
    listener: Any = endpoint.client(name="listener", timeout_s=1.0)
    changes, said = Changes(listener), Changes(client)

    async def follow() -> None:
        while True:
            try:
                await changes.follow(heard.append, listening.set)
            except LedgerUnavailable:
                listening.clear()
                await asyncio.sleep(0.05)

    following = asyncio.create_task(follow())
    await asyncio.wait_for(listening.wait(), 10)
    await said.announce("one")
    await until(lambda: heard == ["one"])
    at = (await _subscribed(client))[0]
    node = next(each for each in cluster.nodes if str(each.address) == at)
    async with away(cluster, node):

        async def again() -> bool:
            await said.announce("two")
            return "two" in heard

        await until(again, 20)
    following.cancel()
    await asyncio.wait([following])
    await listener.aclose()


async def test_a_frozen_node_is_left_by_who_listens_there(
    cluster: Cluster, endpoint: ClusterEndpoint, client: Any
) -> None:
    listening = asyncio.Event()
    follow = asyncio.create_task(Changes(client).follow(lambda _: None, listening.set))
    await asyncio.wait_for(listening.wait(), 10)
    at = (await _subscribed(client))[0]
    node = next(each for each in cluster.nodes if str(each.address) == at)
    node.freeze()
    try:
        endpoint.map.suspect((node.address.host, node.address.port))  # as any command there would
        with pytest.raises(LedgerUnavailable, match="away"):
            await asyncio.wait_for(follow, 15)
    finally:
        node.thaw()
    await until(lambda: not endpoint.map.away)


async def _subscribed(client: Any) -> list[str]:
    """Nodes at which somebody listens."""
    found = []
    for name, node in await client.nodes():
        if await node.pubsub_channels():
            found.append(name)
    return found
