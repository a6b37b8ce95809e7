"""Re-rating: what it leaves alone, what it gives, and what it takes. Sums over a month: test_month.py."""

import pytest

from gateway.domain.pricing import PriceTable
from gateway.operations.errors import NotFound
from gateway.operations.statements.past_charges import rerate_id
from gateway.operations.statements.rerate import Rerated, RerateRequest, rerate
from tests.unit.operations.statements.shop import CREDIT, MINUTE_MS, Shop, at

WHOLE = (at(9, 1), at(10, 1))
NEW_INPUT, NEW_OUTPUT = 222.1, 9000
"""Nano-credits a token at the changed price of `plain`."""


@pytest.fixture
async def shop(new_shop: Shop) -> Shop:
    """It is 2 September, at the old prices."""
    new_shop.now = at(9, 2)
    return new_shop


def version(shop: Shop, model: str = "plain") -> str:
    return shop.new.book.models[model]


async def spend(shop: Shop, model: str = "plain", **usage: int) -> str:
    """A request of c1 that used that; its event's id."""
    held = await shop.reserve("c1", model)
    assert held is not None
    await shop.settle(held, usage)
    await shop.export()
    return shop.charged[-1]


async def run(
    shop: Shop, price_version: str, *, apply: bool = True, model: str = "plain"
) -> list[Rerated]:
    took: list[Rerated] = []
    wanted = RerateRequest(model, price_version, *WHOLE, "c1", apply)
    async with shop.backend() as backend:
        await rerate(backend, wanted, took.append)
    await shop.export()
    return took


async def credit(shop: Shop) -> int:
    wallet = (await shop.audit.snapshot(shop.accounts["c1"].shard)).wallets["c1"]
    return sum(grant.remaining_nano for grant in wallet.grants) - wallet.overdraft_nano


async def amount(shop: Shop, event_id: str) -> int:
    async with shop.backend() as backend:
        stored = backend.store.event(event_id)
    assert stored is not None
    return stored.event.amount_nano


async def test_a_hundred_requests_that_get_cheaper_take_one_place_in_the_wallet(shop: Shop) -> None:
    for number in range(100):
        shop.now += MINUTE_MS
        held = await shop.reserve("c1", "plain")
        await shop.settle(held, {"input": 1000 + number})
    await shop.export()
    before = await credit(shop)
    done = await run(shop, version(shop))
    given = sum(each.change_nano for each in done)
    assert {each.status for each in done} == {"applied"}
    assert given > 0
    wallet = (await shop.audit.snapshot(shop.accounts["c1"].shard)).wallets["c1"]
    assert [g.remaining_nano for g in wallet.grants if g.category == "adjustment"] == [given]
    if not any(g.expires_at_ms for g in wallet.grants):  # the allowance ends by the server's clock
        assert await credit(shop) == before + given


async def test_what_was_refunded_is_not_given_back_twice(shop: Shop) -> None:
    event_id = await spend(shop, input=10_000)
    charged = await amount(shop, event_id)
    await shop.refund(event_id, 2)
    await shop.export()
    (half,) = await run(shop, version(shop), apply=False)
    assert half.change_nano == charged - half.would_nano < charged // 2
    await shop.refund(event_id, 2)
    await shop.export()
    (none,) = await run(shop, version(shop))
    assert (none.change_nano, none.status) == (0, "same")


async def test_an_expiry_waits_while_its_late_settlement_can_come(shop: Shop) -> None:
    async with shop.backend() as backend:
        now_ms = await backend.accounts.now_ms()
    shop.now = now_ms - 30 * MINUTE_MS
    held = await shop.reserve("c1", "plain")
    shop.now = held[3].deadline_ms
    await shop.expire(held)
    await shop.export()
    took: list[Rerated] = []
    wanted = RerateRequest(
        "plain", shop.old.book.models["plain"], now_ms - 40 * MINUTE_MS, now_ms, "c1", apply=True
    )
    async with shop.backend() as backend:
        await rerate(backend, wanted, took.append)
    assert [(each.status, each.change_nano) for each in took] == [("waits", 0)]


async def test_a_price_without_that_service_tier_changes_nothing(shop: Shop) -> None:
    table: PriceTable = shop.price("plain")
    assert table.service_tiers == ("default",)
    shop.tier = "flex"
    await spend(shop, input=1000)
    (one,) = await run(shop, version(shop))
    assert (one.service_tier, one.status, one.change_nano) == ("flex", "no_price", 0)


async def test_a_second_price_changes_what_the_first_rerate_left(shop: Shop) -> None:
    event_id = await spend(shop, input=10_000)
    charged = await amount(shop, event_id)
    (first,) = await run(shop, version(shop))
    (back,) = await run(shop, shop.old.book.models["plain"])
    assert (back.paid_nano, back.would_nano) == (first.would_nano, charged)
    assert back.change_nano == -first.change_nano
    assert (
        await amount(shop, rerate_id(event_id, shop.old.book.models["plain"])) == back.change_nano
    )


async def test_a_price_with_tiers_counts_what_came_before_in_its_month(shop: Shop) -> None:
    for _ in range(5):
        shop.now += MINUTE_MS
        await spend(shop, input=1500)
    wanted = version(shop, "graduated")
    planned = await run(shop, wanted, apply=False)
    # 5,000 are included; then 2,000 at 10.0777 a million, and 0.05 where the next tier begins.
    assert [each.would_nano for each in planned[:3]] == [0, 0, 0]
    assert planned[3].would_nano == 10_077_700
    assert planned[4].would_nano == 1000 * 10_077.7 + CREDIT // 20 + 500 * 4000
    took: list[Rerated] = []
    last = RerateRequest("plain", wanted, planned[4].reserved_at_ms, WHOLE[1], "c1")
    async with shop.backend() as backend:
        await rerate(backend, last, took.append)
    assert [each.would_nano for each in took] == [planned[4].would_nano]


async def test_what_is_not_there_is_not_rerated(shop: Shop) -> None:
    await spend(shop, input=1000)
    assert await run(shop, version(shop), model="volume") == []
    with pytest.raises(NotFound, match="there is no price version p_nothing"):
        await run(shop, "p_nothing")
