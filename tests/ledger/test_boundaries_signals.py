"""Boundaries of what a wallet announces: balances on a threshold, moments to the millisecond, the smallest
numbers, and that nothing is announced twice."""

import struct
from typing import Any

import pytest
import redis.asyncio

from tests.ledger.raw import NAMES, Raw, vector


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Raw:
    return await Raw(valkey).open()


HOUR_MS = 3_600_000
NEVER = 9e15
NUMBERS = "before top_below top_amount cooldown most period factor least_spent least_hours"


def rules(*thresholds: float, flags: int = 0, **numbers: float) -> bytes:
    """As README's Signals has them; flags: 1 exhausted, 2 freeze."""
    assert set(numbers) <= set(NUMBERS.split())
    nine = [numbers.get(name, 0) for name in NUMBERS.split()]
    n = len(thresholds)
    return struct.pack(f"<BB9d{n}d", n, flags, *nine, *thresholds)


async def told(raw: Raw) -> list[list[Any]]:
    """Signals of all entries so far, oldest first."""
    return [each for _, stamp, _ in await raw.events() for each in stamp[9:]]


async def spend(raw: Raw, rid: str, nano: float) -> list[Any]:
    """What is announced when so much is charged."""
    before = len(await raw.events())
    assert (await raw("settle", rid, used=vector(nano, 0)))[0] == "settled"
    return [each for _, stamp, _ in (await raw.events())[before:] for each in [*stamp, []][9]]


async def swept(raw: Raw) -> list[Any]:
    """What time alone has made due."""
    before = len(await raw.events())
    await raw("sweep")
    return [each for _, stamp, _ in (await raw.events())[before:] for each in [*stamp, []][9]]


# Balances


async def test_rules_that_meet_a_balance_on_the_threshold_say_nothing(raw: Raw) -> None:
    await raw("signals", rules=rules(1000, top_below=1000, top_amount=5, most=9, period=9))
    assert await told(raw) == []
    assert await spend(raw, "r1", 1) == [["low_balance", 1000], ["topup_wanted", 1000, 5, 1]]


async def test_a_wallet_recovers_when_it_stands_on_the_threshold_again(raw: Raw) -> None:
    await raw("signals", rules=rules(1000))
    await spend(raw, "r1", 10)
    await raw("grant", id="g2", amount=9)
    assert await told(raw) == [[["low_balance", 1000]]]
    await raw("grant", id="g3", amount=1)
    assert (await told(raw))[1:] == [[["recovered", 1000]]]


async def test_a_wallet_of_one_nano_credit_has_begun(valkey: redis.asyncio.Redis) -> None:
    raw = await Raw(valkey).open(0)
    await raw("signals", rules=rules(5))
    await raw("grant", id="g1", amount=1)
    assert await told(raw) == [[["low_balance", 5]]]


async def test_what_was_announced_stays_so_under_rules_that_freeze_too(raw: Raw) -> None:
    await raw("signals", rules=rules(flags=1))
    assert await spend(raw, "r1", 1000) == [["exhausted", 0]]
    for number, flags in ((10, 3), (11, 3), (12, 1)):
        await raw("signals", rules=rules(flags=flags, least_hours=number))
    assert await told(raw) == [[["exhausted", 0]]]


async def test_a_number_of_the_rules_is_not_taken_for_a_threshold(raw: Raw) -> None:
    await raw("signals", rules=rules(10, least_hours=10))
    assert await spend(raw, "r1", 1000) == [["low_balance", 10]]
    await raw("signals", rules=rules(10, flags=1, least_hours=10))
    assert (await told(raw))[1:] == [[["exhausted", 0]]]
    await raw("signals", rules=rules(flags=1, least_hours=10))
    await raw("signals", rules=rules(10, flags=1, least_hours=11))
    assert (await told(raw))[2:] == [[["low_balance", 10]]]


# Grants that expire


@pytest.mark.parametrize("category", [1, 2, 4])
async def test_a_grant_is_announced_once_to_the_millisecond_down_to_one_nano(
    raw: Raw, category: int
) -> None:
    await raw("signals", rules=rules(1002, before=1))
    await raw("grant", id="g2", amount=1, expires_at=raw.now + 10, category=category)
    raw.now += 8
    assert await swept(raw) == []
    raw.now += 1
    assert await swept(raw) == [["grant_expiring", 2, 1, raw.now + 1]]
    await raw("grant", id="g3", amount=1)  # crosses something, so all of it is looked at
    assert (await told(raw))[2:] == [[["recovered", 1002]]]


async def test_an_allowance_is_not_announced(raw: Raw) -> None:
    await raw("signals", rules=rules(before=5))
    await raw("grant", id="g2", amount=7, expires_at=raw.now + 10, category=3)
    raw.now += 5
    await raw("signals", rules=rules(7, before=5))
    assert await told(raw) == []


async def test_each_of_many_grants_is_announced(raw: Raw) -> None:
    await raw("signals", rules=rules(before=5))
    last = raw.now + 100
    for number in range(2, 32):
        await raw("grant", id=f"g{number}", amount=number, expires_at=last + number)
    raw.now = last + 26
    assert await swept(raw) == [
        ["grant_expiring", number, number, last + number] for number in range(27, 32)
    ]


async def test_where_no_grant_is_announced_one_that_is_held_makes_nothing_due(
    valkey: redis.asyncio.Redis,
) -> None:
    raw = await Raw(valkey).open(0)
    for number, after in ((1, 5), (2, 100)):
        await raw("grant", id=f"g{number}", amount=50, expires_at=raw.now + after)
    await raw("reserve", estimate=vector(100, 0))
    raw.now += 5
    await raw("signals", rules=rules(7))
    assert (await raw.header())["sweep_at"] == NEVER


# Top-ups


async def test_a_top_up_s_period_and_cooldown_end_to_the_millisecond(raw: Raw) -> None:
    asked: dict[str, Any] = {
        "top_below": 1001,
        "top_amount": 5,
        "cooldown": 10,
        "most": 2,
        "period": 100,
    }
    began = raw.now
    await raw("signals", rules=rules(**asked))
    assert (await told(raw))[-1] == [["topup_wanted", 1001, 5, 1]]
    found = []
    for after in (9, 10, 11, 20, 99, 100, 109, 110, 120, 199, 200):
        assert (await raw.header())["sweep_at"] >= raw.now
        raw.now = began + after
        found += [(after, *each) for each in await swept(raw)]
    assert found == [
        (10, "topup_wanted", 1001, 5, 2),
        (100, "topup_wanted", 1001, 5, 1),
        (110, "topup_wanted", 1001, 5, 2),
        (200, "topup_wanted", 1001, 5, 1),
    ]


async def test_a_top_up_is_due_when_its_cooldown_or_its_period_ends(raw: Raw) -> None:
    asked: dict[str, Any] = {
        "top_below": 1001,
        "top_amount": 1,
        "cooldown": 10,
        "most": 2,
        "period": 100,
    }
    began = raw.now
    await raw("signals", rules=rules(**asked))
    assert (await raw.header())["sweep_at"] == began + 10
    raw.now += 10
    await swept(raw)
    assert (await raw("sweep"))[3] == began + 100


async def test_a_top_up_waits_for_its_cooldown_whatever_else_is_crossed(raw: Raw) -> None:
    asked: dict[str, Any] = {
        "top_below": 1001,
        "top_amount": 1,
        "cooldown": 10,
        "most": 9,
        "period": 100,
    }
    await raw("signals", rules=rules(500, **asked))
    raw.now += 9
    assert await spend(raw, "r1", 501) == [["low_balance", 500]]
    raw.now += 1
    assert await swept(raw) == [["topup_wanted", 1001, 1, 2]]


async def test_the_first_top_up_waits_for_no_cooldown(raw: Raw) -> None:
    asked: dict[str, Any] = {
        "top_below": 1001,
        "top_amount": 1,
        "cooldown": NEVER,
        "most": 9,
        "period": 100,
    }
    await raw("signals", rules=rules(**asked))
    assert await told(raw) == [[["topup_wanted", 1001, 1, 1]]]


async def test_a_top_up_of_nothing_is_none(raw: Raw) -> None:
    await raw("signals", rules=rules(7, top_below=2000, most=9, period=9))
    assert await told(raw) == []


# Spending


async def velocity(valkey: redis.asyncio.Redis, *hours: float, **asked: float) -> Raw:
    """A wallet that has spent so much in each hour before this one."""
    raw = await Raw(valkey).open(10**9)
    flags = int(asked.pop("flags", 0))
    await raw("signals", rules=rules(factor=1, least_spent=1e9))
    for number, nano in enumerate(hours):
        assert await spend(raw, f"h{number}", nano) == []
        raw.now += HOUR_MS
    await raw("signals", rules=rules(flags=flags, **{"factor": 2000, "least_hours": 1, **asked}))
    return raw


@pytest.mark.parametrize(
    ("hours", "most", "usual"),
    [
        ((31_000,), 62_000, 31_000),  # 31 micro-credits: 2⁵ less one
        (
            (33_296,),
            62_000,
            31_000,
        ),  # up to 2^5.1 less one, 33.2968, where a fifth of an octave ends
        ((33_297,), 71_516, 35_758),  # then it is 2^5.2 less one
        ((1000, 31_000, 7000), 14_000, 7000),  # of three the middle one
        ((1000, 31_000, 7000, 3000), 6000, 3000),  # of four the lower of the middle
        ((0, 0, 31_000), 50_000, 0),  # the least
    ],
)
async def test_an_hour_is_unusual_from_the_nano_beyond_the_factor(
    valkey: redis.asyncio.Redis, hours: tuple[float, ...], most: int, usual: int
) -> None:
    least = 50_000 if not usual else 0
    raw = await velocity(valkey, *hours, least_spent=least)
    assert await spend(raw, "r1", most) == []
    assert await spend(raw, "r2", 1) == [["spending_fast", most + 1, usual, 0]]
    assert await spend(raw, "r3", most) == []  # once an hour
    raw.now += HOUR_MS - 1
    assert await spend(raw, "r4", 1) == []


async def test_an_hour_is_compared_when_enough_are_known(valkey: redis.asyncio.Redis) -> None:
    raw = await velocity(valkey, 1000, least_hours=2)
    assert await spend(raw, "r1", 31_000) == []
    raw.now += HOUR_MS
    assert await spend(raw, "r2", 2000) == []
    assert await spend(raw, "r3", 1) == [["spending_fast", 2001, 1000, 0]]


@pytest.mark.parametrize(("hours", "usual"), [(2, 31_000), (3, 0)])
async def test_hours_of_a_pause_were_hours_of_nothing(
    valkey: redis.asyncio.Redis, hours: int, usual: int
) -> None:
    raw = await velocity(valkey, 31_000, 31_000, 31_000)
    raw.now += (
        hours * HOUR_MS
    )  # of three and two the middle one is a full one, of three and three not
    assert await spend(raw, "r1", 62_001) == [["spending_fast", 62_001, usual, 0]]


async def test_a_week_of_hours_is_known_and_no_more(valkey: redis.asyncio.Redis) -> None:
    raw = await velocity(valkey, 31_000)
    assert await spend(raw, "r1", 31_000) == []
    raw.now += 169 * HOUR_MS
    await spend(raw, "r2", 1)
    record = await raw.client.get(NAMES["account"])
    rules_at = 120 + 56 + 40  # behind the header, a grant, and the numbers that every step compares
    state_at = rules_at + 74
    assert record[state_at + 3] == 168
    assert record[state_at + 52 : state_at + 52 + 168] == bytes(168)


async def test_who_spends_fast_is_frozen_where_the_rules_say_so(
    valkey: redis.asyncio.Redis,
) -> None:
    raw = await velocity(valkey, 1000, flags=2)
    assert await spend(raw, "r1", 2001) == [["spending_fast", 2001, 1000, 1]]
    assert (await raw.header())["status"] == 1


@pytest.mark.parametrize(
    ("verb", "asked"),
    [
        ("account", {"rev": 2}),
        ("grant", {"amount": 9}),
        ("adjust", {"amount": 9}),
        ("adjust", {"amount": 9, "debit": 1}),
        ("void", {"no": 1}),
        ("refund", {"amount": 9}),
        ("allowance", {"amount": 9}),
        ("release", {}),
        ("sweep", {}),
        ("signals", {"rules": rules(factor=2000)}),
    ],
)
async def test_an_hour_that_is_met_by_what_spends_nothing_begins_with_nothing(
    valkey: redis.asyncio.Redis, verb: str, asked: dict[str, Any]
) -> None:
    raw = await velocity(valkey, 31_000)
    assert await spend(raw, "r1", 31_000) == []
    await raw("grant", id="g2", amount=30, expires_at=raw.now + 2 * HOUR_MS)
    await raw("grant", id="g3", amount=30, expires_at=raw.now + HOUR_MS)
    await raw("reserve", "held")
    raw.now += HOUR_MS
    answer = await raw(verb, "held", **({} if verb == "release" else {"id": "met"}), **asked)
    assert answer[0] in (
        "updated", "granted", "adjusted", "voided", "refunded", "released", "swept",
    )  # fmt: skip
    assert await spend(raw, "r2", 62_000) == []
    assert await spend(raw, "r3", 1) == [["spending_fast", 62_001, 31_000, 0]]
