"""Borders of what no request moves: sweeps that find nothing, rules that say nothing, the largest void,
and an outbox that is none."""

from typing import Any

import pytest
import redis.asyncio

from gateway.domain.money import MAX_AMOUNT_NANO
from gateway.ledger.client.errors import LedgerBug
from tests.ledger.raw import NAMES, Raw
from tests.ledger.test_borders_signals import rules


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Raw:
    return await Raw(valkey).open()


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
