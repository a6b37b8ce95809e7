"""Boundaries of what operators and time do to a wallet."""

from typing import Any

import pytest
import redis.asyncio

from gateway.domain.money import MAX_AMOUNT_NANO
from gateway.ledger.client.errors import LedgerBug
from tests.ledger.raw import NAMES, Raw, payer, vector
from tests.ledger.test_boundaries_signals import rules


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Raw:
    return await Raw(valkey).open()


# Accounts and allowances


async def test_a_bump_changes_the_revision_alone_whatever_else_it_is_given(raw: Raw) -> None:
    before = await raw.header()
    await raw("account", rev=0, bump=1, limit=9, status=2, day=9)
    assert await raw.header() == {**before, "rev": 2}


async def test_each_of_sixteen_allowances_is_found_again(raw: Raw) -> None:
    for number in range(1, 17):
        assert (await raw("allowance", allowance=number, amount=number))[0] == "updated"
    for number in (16, 1, 15):
        assert await raw("allowance", allowance=number, amount=number) == ["unchanged"]
        assert (await raw("allowance", allowance=number, amount=0))[0] == "updated"
    assert (await raw.header())["n_allowances"] == 13


# Sweeps, rules and voids


async def test_a_sweep_that_comes_in_time_and_finds_nothing_says_so(raw: Raw) -> None:
    await raw("signals", rules=rules(before=5))
    ends = raw.now + 10
    await raw("grant", id="g2", amount=7, expires_at=ends)
    await raw("signals", rules=rules())  # nobody wants to know any more: the sweep stays due
    assert (await raw.header())["sweep_at"] == ends - 5
    raw.now += 5
    before = await raw.events()
    assert await raw("sweep") == ["swept", 0, 1007, ends, 0, 0]
    assert await raw.events() == before


@pytest.mark.parametrize("said", ["top_amount", "before", "factor"])
async def test_rules_with_one_amount_say_something(raw: Raw, said: str) -> None:
    assert (await raw("signals", rules=rules(**{said: 5})))[0] == "updated"


@pytest.mark.parametrize("said", ["top_below", "cooldown", "most", "period", "least_spent"])
async def test_rules_without_what_they_qualify_say_nothing(raw: Raw, said: str) -> None:
    assert await raw("signals", rules=rules(**{said: 5})) == ["unchanged"]


@pytest.mark.parametrize(
    ("verb", "said"), [("sweep", {}), ("signals", {"rules": rules(7)}), ("void", {"no": 1})]
)
async def test_where_the_outbox_is_of_another_type_nothing_is_written(
    raw: Raw, verb: str, said: dict[str, Any]
) -> None:
    await raw.client.delete(NAMES["out"])
    await raw.client.set(NAMES["out"], b"other")
    before = await raw.dump()
    with pytest.raises(LedgerBug, match="WRONGTYPE"):
        await raw(verb, **said)
    assert await raw.dump() == before


async def test_all_that_a_wallet_may_ever_void_can_be_voided(valkey: redis.asyncio.Redis) -> None:
    raw = await Raw(valkey).open(MAX_AMOUNT_NANO)
    assert (await raw("void", id="v1", no=1))[:4] == ["voided", MAX_AMOUNT_NANO, 0, 0]


# Refunds


MOST = 9_000_000_000_000_000
"""Nano-credits: no sum of a wallet goes further."""


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
