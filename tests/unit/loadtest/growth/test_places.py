"""Ledgers filled in bulk are real ones: every copy can be read, asked and settled, and holds as much
as its size says."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from gateway.domain.reservation import Account, Hold
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.runner import CoalescingRunner
from loadtest.growth import places
from loadtest.growth.places import Dimension, Server
from loadtest.ledger_cost import prices
from tests.support.loose_ledger import LooseLedger


@pytest.fixture
async def server(valkey: redis.asyncio.Redis, valkey_socket: Path) -> AsyncIterator[Server]:
    endpoint = Endpoint.from_socket(valkey_socket)
    async with CoalescingRunner(endpoint, name="test", timeout_s=10) as runner:
        yield Server(runner, valkey)


async def test_a_copied_customer_is_as_good_as_the_one_that_the_scripts_made(
    server: Server,
) -> None:
    ledger = LooseLedger(server.runner, shard_count=4)
    store = AccountStore(server.client, shard_count=4)
    names = places.names_of(100)
    await places.fill_customers(server, ledger.shards, names)
    assert await store.wallets.customers() == names
    wallets = await store.wallets.read(names)
    assert {wallet.granted_nano for wallet in wallets.values()} == {places.CREDIT_NANO}
    assert {len(wallet.grants) for wallet in wallets.values()} == {1}
    table = prices()
    for name in names[-8:]:
        account = Account(name, "k", ledger.keys.shard_of(name), account_rev=1)
        bound = table.vector({"input": 10})
        hold = await ledger.reserve(
            account, f"r-{name}", table, bound, bound, b"\x80", tokens=10, ttl_ms=60_000
        )
        assert isinstance(hold, Hold)
        settled = await ledger.settle(
            account,
            f"r-{name}",
            table,
            bound,
            b"\x80",
            tokens=10,
            reserved_at_ms=hold.reserved_at_ms,
        )
        assert settled.charged_nano == 30_000
        after = (await store.wallets.read([name]))[name]
        assert after.balance_nano(hold.reserved_at_ms) == places.CREDIT_NANO - 30_000


async def count(server: Server, dimension: str) -> int:
    """How many there are of what this dimension is about."""
    store, client = AccountStore(server.client), server.client
    shards = range(store.names.shard_count)
    if dimension == "holds":
        return len(await store.holds.open_holds())
    if dimension == "backlog":
        return sum([await client.xlen(store.names.out(shard)) for shard in shards])
    if dimension == "keys":
        return len(await client.keys("{cg:*}:k:holder:*"))
    names = await store.wallets.customers()
    if dimension == "customers":
        return len(names)
    return len((await store.wallets.read(names[:1]))[names[0]].grants)


@pytest.mark.parametrize("dimension", ["customers", "grants", "keys", "holds"])
async def test_a_ledger_holds_as_much_as_its_size_says(server: Server, dimension: str) -> None:
    (chosen,) = (one for one in places.DIMENSIONS if one.name == dimension)
    one = await chosen.fill([server], 40)
    assert await count(server, dimension) == 40
    await one()
    assert await count(server, dimension) == 40


async def test_a_backlog_is_of_events_that_can_be_read(server: Server) -> None:
    one = await places.backlog([server], 1000)
    made = await count(server, "backlog")
    assert made >= 1000
    await one()
    assert await count(server, "backlog") == made + 1


async def test_all_limits_of_a_request_count(server: Server) -> None:
    one = await places.limits([server], 24)
    await one()
    records: list[Any] = await server.client.keys("{cg:*}:[pk]:*")
    assert len(records) == 2
    wallets = await AccountStore(server.client).wallets.read(["limits-1"])
    assert len(wallets["limits-1"].counters) == 8


def test_more_limits_are_the_fewer_ones_and_others() -> None:
    every = places.many_limits(36)
    assert len({limit.place for limit in every}) == 36
    assert places.many_limits(6) == every[:6]
    assert {limit.scope for limit in every[:6]} == {"customer", "project", "key"}


def test_each_dimension_has_a_chart_of_its_own_and_rising_sizes() -> None:
    named: dict[str, Dimension] = {one.name: one for one in places.DIMENSIONS}
    assert len(named) == len(places.DIMENSIONS)
    for one in named.values():
        assert list(one.sizes) == sorted(set(one.sizes))
