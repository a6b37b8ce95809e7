"""Borders of a refund: a charge that has shrunk, a grant that was used up, a wallet that is just full,
the largest sum."""

import pytest
import redis.asyncio

from tests.ledger.raw import Raw, payer, vector

MOST = 9_000_000_000_000_000
"""Nano-credits: no sum of a wallet goes further."""


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Raw:
    return await Raw(valkey).open()


async def test_of_a_charge_that_shrank_below_its_refunds_nothing_is_left(raw: Raw) -> None:
    await raw("settle")
    await raw("refund", id="f1", amount=15)
    assert await raw("refund", id="f2", charged=10, amount=1) == ["more_than_charged", 0]


async def test_what_a_used_up_grant_gets_back_expires_in_time(raw: Raw) -> None:
    first, second = raw.now + 500, raw.now + 1000
    await raw("grant", id="g2", amount=5, expires_at=first, priority=1)
    await raw("grant", id="g3", amount=40, expires_at=second, priority=0)
    await raw("settle")  # g3 pays
    raw.now = first
    assert (await raw("sweep"))[0] == "swept"
    assert (await raw.header())["sweep_at"] > second  # nothing is left to expire
    await raw("refund", id="f1", amount=10, paid=payer(3, 40))
    assert (await raw.header())["sweep_at"] == second
    raw.now = second
    await raw("sweep")
    expired = (await raw.events())[-1][1]
    assert (expired[0], expired[3]) == ("expire_grant", 10)


async def test_a_refund_leaves_the_used_up_grants_of_a_wallet_that_is_just_full(raw: Raw) -> None:
    await raw("grant", id="g2", amount=40, priority=1)
    for number in range(3, 65):
        await raw("grant", id=f"g{number}", amount=1)
    await raw("settle", used=vector(40, 0))  # g2 pays
    assert len(await raw.grants()) == 64
    assert (await raw("refund", id="f1", amount=10, paid=payer(1, 40)))[0] == "refunded"
    assert len(await raw.grants()) == 64


async def test_refunds_come_to_the_largest_sum_and_no_further(valkey: redis.asyncio.Redis) -> None:
    raw = await Raw(valkey).open(0)
    asked = {"charged": MOST, "paid": payer(0, MOST)}
    assert (await raw("refund", id="f1", amount=MOST, **asked))[0] == "refunded"
    assert (await raw.header())["adjusted"] == MOST
    more = {"event_name": b"r2:settled", "charged": 1, "paid": payer(0, 1)}
    assert await raw("refund", id="f2", amount=1, **more) == ["total_too_large"]
