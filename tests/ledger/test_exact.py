"""Every number of a reply, an event and a record, after each verb: no two of them alike, so that one
in another's place is seen."""

import struct
from typing import Any

import msgpack
import pytest
import redis.asyncio

from gateway.domain.reservation import SETTLE_MAX_AGE_MS, TOMBSTONE_TTL_MS
from tests.ledger.bench import NOON_MS
from tests.ledger.raw import NAMES, Raw, limit, rows, vector

PENDING = "<BBBBBBHHHIddddd"
ENDED = "<BBBBBBdddddd"
COSTS = rows((1, 0), (1, 0))
START = NOON_MS - 1000
EVERY_LIMIT = (
    limit(0, 1, 11, 901) + limit(0, 2, 12, 902) + limit(1, 3, 13, 903) + limit(2, 4, 14, 904)
    + limit(2, 1, 15, 905)
)  # fmt: skip


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Raw:
    return await Raw(valkey).open()


def limits_of(*counts: int) -> bytes:
    """The rows of EVERY_LIMIT as records keep them: with what is held, or was counted."""
    rows_of = [(0, 1, 11, 901), (0, 2, 12, 902), (1, 3, 13, 903), (2, 4, 14, 904), (2, 1, 15, 905)]
    return b"".join(
        struct.pack("<BBIddd", scope, measure, counter, START, ceiling, count)
        for (scope, measure, counter, ceiling), count in zip(rows_of, counts, strict=True)
    )


async def event(raw: Raw) -> list[Any]:
    """The last stamp: kind, id, at, amount, held, cost, balance, allocations, usage."""
    return (await raw.events())[-1][1]


async def tail(raw: Raw, rid: str, form: str) -> bytes:
    """What follows the head of a reservation's record."""
    record: bytes = await raw.client.get(b"{cg:0}:r:" + rid.encode())
    return record[struct.calcsize(form) :]


async def pttl(raw: Raw, rid: str) -> int:
    left: int = await raw.client.pttl(b"{cg:0}:r:" + rid.encode())
    return left


async def due(raw: Raw) -> list[tuple[bytes, float]]:
    waiting: list[tuple[bytes, float]] = await raw.client.zrange(
        NAMES["due"], 0, -1, withscores=True
    )
    return waiting


# Reserve


async def test_a_hold_says_all_it_was_made_of(raw: Raw) -> None:
    raw.now += 3
    asked = {"bits": 6, "mask": 3, "limits": EVERY_LIMIT, "cost_rows": COSTS, "facts": b"said"}
    reply = await raw("reserve", **asked)
    assert reply == ["held", 100, 900, raw.now, raw.now + 60_000]
    assert await raw.unpacked("r1", PENDING) == [
        1, 0, 1, 5, 2, 3, 36, 36, 12, 6, 100, raw.now, raw.now + 60_000, 0, 7,
    ]  # fmt: skip
    body = vector(100, 0) + vector(20, 0) + Raw.ROWS + COSTS + Raw.IDS + b"said"
    packed = limits_of(100, 1, 7, 1, 100)
    assert await tail(raw, "r1", PENDING) == struct.pack("<dd", 1, 100) + packed + body
    assert await raw.counters() == [[11, START, 0, 100], [12, START, 0, 1]]
    assert await raw.counters("project") == [[13, START, 0, 7]]
    assert await raw.counters("key") == [[14, START, 0, 1], [15, START, 0, 100]]
    assert await raw.unpacked("project", "<BBBB") == [1, 0, 1, 0]
    assert await due(raw) == [(b"r1", raw.now + 60_000)]
    header = await raw.header()
    assert (header["held"], header["held_credit"], header["open"]) == (100, 0, 1)
    raw.now += 5
    again = await raw("reserve", **asked, ttl=1)
    assert again == ["held", 100, 900, raw.now - 5, raw.now - 5 + 60_000]
    await raw("reserve", "r2", **asked)
    assert (await raw.header())["open"] == 2
    assert await raw.counters() == [[11, START, 0, 200], [12, START, 0, 2]]


async def test_a_reserve_repeated_is_compared_whole(raw: Raw) -> None:
    await raw("reserve")
    for changed in (
        {"estimate": vector(101, 0)}, {"floor": vector(21, 0)}, {"facts": b"other"},
        {"price_rows": rows((1, 0), (3, 0))}, {"ids_bytes": b"acme\0k1\0meat"},
        {"estimate": vector(100), "floor": vector(20), "price_rows": rows((1, 0))},
    ):  # fmt: skip
        assert await raw("reserve", **changed) == ["exists_with_different_parameters"]
    await raw("extend", estimate=vector(100, 0), floor=vector(30, 0))
    assert (await raw("reserve"))[0] == "held"
    assert (await raw("reserve", estimate=vector(5, 0), floor=vector(1, 0)))[0] == "held"
    assert await raw("reserve", facts=b"other") == ["exists_with_different_parameters"]


async def test_a_reserve_of_old_terms_or_a_frozen_wallet_is_refused(raw: Raw) -> None:
    assert await raw("reserve", rev=2) == ["stale_account", 1]
    assert await raw("reserve", rev=0) == ["stale_account", 1]
    await raw("account", rev=5, status=1)
    assert await raw("reserve", rev=5) == ["wallet_frozen"]
    assert await raw("quote") == ["wallet_frozen", 100, 1000, 1000]


async def test_credit_goes_to_the_last_nano_and_no_further(raw: Raw) -> None:
    assert await raw("reserve", "r1", estimate=vector(1001, 0)) == [
        "insufficient_credits", 1001, 1000, 1000,
    ]  # fmt: skip
    assert (await raw("quote", estimate=vector(1001, 0)))[0] == "insufficient_credits"
    assert (await raw("quote", estimate=vector(1000, 0)))[0] == "allow"
    assert (await raw("reserve", "r1", estimate=vector(999, 0)))[2] == 1
    assert await raw("reserve", "r2", estimate=vector(2, 0)) == ["credit_held", 2, 1, 1000]
    assert (await raw("quote", estimate=vector(2, 0)))[0] == "credit_held"
    assert (await raw("reserve", "r2", estimate=vector(1, 0)))[2] == 0
    assert await raw("reserve", "r3", estimate=vector(1, 0)) == ["credit_held", 1, 0, 1000]
    assert (await raw("quote", estimate=vector(1, 0)))[0] == "credit_held"
    assert (await raw("reserve", "r4", estimate=vector(0, 0)))[0] == "held"
    assert (await raw("quote", estimate=vector(0, 0)))[0] == "allow"


async def test_what_costs_nothing_passes_even_what_is_owed(valkey: redis.asyncio.Redis) -> None:
    raw = await Raw(valkey).open(0)
    nothing, one = {"estimate": vector(0, 0)}, {"estimate": vector(1, 0)}
    for owed in (0, 5):
        assert await raw("quote", **nothing) == ["allow", 0, -owed, -owed]
        assert (await raw("reserve", f"n{owed}", **nothing))[0] == "held"
        assert await raw("quote", **one) == ["insufficient_credits", 1, -owed, -owed]
        assert await raw("reserve", **one) == ["insufficient_credits", 1, -owed, -owed]
        await raw("settle", "r0", used=vector(5, 0))
    await raw("adjust", id="a1", amount=15)
    await raw("reserve", "r1", estimate=vector(10, 0))
    await raw("settle", "r2", used=vector(5, 0))
    assert await raw("quote", **nothing) == ["allow", 0, -5, 5]
    assert (await raw("reserve", "r3", **nothing))[0] == "held"
    assert await raw("quote", **one) == ["credit_held", 1, -5, 5]
    assert await raw("reserve", "r4", **one) == ["credit_held", 1, -5, 5]


async def test_what_is_owed_is_not_available(valkey: redis.asyncio.Redis) -> None:
    raw = await Raw(valkey).open(0, credit_limit=100)
    await raw("settle", "r0", used=vector(30, 0))
    await raw("grant", id="scoped", bits=2, amount=50)
    assert await raw("quote", bits=2, estimate=vector(1, 0)) == ["allow", 1, 120, 20]
    assert await raw("quote", bits=1, estimate=vector(1, 0)) == ["allow", 1, 70, 20]
    assert (await raw("reserve", bits=2, estimate=vector(111, 0)))[2] == 9
    header = await raw.header()
    assert (header["held"], header["held_credit"]) == (111, 61)
    assert await raw("reserve", "r2", bits=2, estimate=vector(10, 0)) == ["credit_held", 10, 9, 20]
    assert await raw("reserve", "r2", bits=2, estimate=vector(121, 0)) == [
        "insufficient_credits", 121, 9, 20,
    ]  # fmt: skip


async def test_one_nano_is_held_and_owed_like_more(valkey: redis.asyncio.Redis) -> None:
    raw = await Raw(valkey).open(1, credit_limit=1)
    assert (await raw("reserve", estimate=vector(2, 0)))[2] == 0
    assert (await tail(raw, "r1", PENDING))[:32] == struct.pack("<dddd", 1, 1, 0, 1)
    assert (await raw("settle", used=vector(2, 0)))[:3] == ["settled", 2, -1]
    assert (await event(raw))[7] == [1, 1, 0, 1]
    assert (await raw.header())["overdraft"] == 1
    await raw("grant", id="g2", amount=1)
    assert (await event(raw))[7] == [0, 1]
    await raw("grant", id="g3", amount=1)
    assert (await event(raw))[7] == [3, 1]
    await raw("settle", "r2", used=vector(1, 0))
    assert (await event(raw))[7] == [3, 1]
    await raw("settle", "r3", used=vector(0, 0))
    assert (await event(raw))[7:] == [[], []]


# Grants


async def test_of_grants_alike_the_category_decides_then_the_start_then_age(
    valkey: redis.asyncio.Redis,
) -> None:
    raw = await Raw(valkey).open(0)
    for category in (1, 4, 3, 2):  # paid, adjustment, allowance, promotional
        await raw("grant", id=f"c{category}", category=category, effective_at=5)
    assert [grant[0] for grant in await raw.grants()] == [2, 3, 4, 1]
    await raw("grant", id="younger", effective_at=5)
    await raw("grant", id="earlier", effective_at=4)
    await raw("grant", id="later", effective_at=6)
    assert [grant[4] for grant in await raw.grants()] == [4, 3, 2, 6, 1, 5, 7]
    await raw("grant", id="expires", effective_at=7, expires_at=9e15)
    await raw("grant", id="sooner", expires_at=9e15 - 1)
    assert [grant[4] for grant in await raw.grants()] == [9, 4, 3, 2, 6, 1, 5, 7, 8]
    await raw("grant", id="from now on")
    assert [grant[4] for grant in await raw.grants()] == [9, 4, 3, 2, 10, 6, 1, 5, 7, 8]


async def test_a_grant_says_all_it_was_made_of(raw: Raw) -> None:
    terms = {"category": 3, "priority": 9, "bits": 5, "effective_at": 70, "expires_at": 9e15}
    raw.now += 8
    assert await raw("grant", id="g2", amount=33, facts=b"why", **terms) == [
        "granted", 2, 1033, 1, 2, 0,
    ]  # fmt: skip
    assert (await raw.grants())[0] == [3, 9, 0, 5, 2, 33, 0, 70, 9e15, raw.now]
    assert (await raw.events())[-1] == (
        "1-2", ["grant", "g2", raw.now, 33, 0, False, 1033, [2, 33], []], b"why",
    )  # fmt: skip
    header = await raw.header()
    assert (header["granted"], header["next_no"], header["n_grants"]) == (1033, 3, 2)
    did = await raw.client.hget(NAMES["ops"], "g2")
    packed = struct.pack("<BBIddd", 3, 9, 5, 33, 70, 9e15)
    assert unpack(did) == ["grant", packed, 2, raw.now, 1, 2, b"why"]
    await raw("settle")
    assert await raw("grant", id="g2", amount=33, **terms) == ["granted", 2, 993, 1, 2, 1]
    assert await raw("grant", id="g2", amount=34, **terms) == ["exists_with_different_parameters"]
    assert await raw("adjust", id="g2") == ["exists_with_different_parameters"]


async def test_an_adjustment_says_all_it_did(raw: Raw) -> None:
    assert await raw("adjust", id="a1", amount=33, priority=44, facts=b"why") == [
        "adjusted", 1033, 1, 2, 0,
    ]  # fmt: skip
    assert (await raw.grants())[0] == [4, 44, 0, 0, 2, 33, 0, 0, 0, raw.now]
    assert (await raw.events())[-1] == (
        "1-2", ["adjust", "a1", raw.now, 33, 0, False, 1033, [2, 33], []], b"why",
    )  # fmt: skip
    assert await raw("adjust", id="a2", debit=1, amount=40) == ["adjusted", 993, 1, 3, 0]
    assert await event(raw) == ["adjust", "a2", raw.now, -40, 0, False, 993, [2, -33, 1, -7], []]
    assert (await raw.header())["adjusted"] == -7
    assert (await raw("adjust", id="a3", debit=1, amount=1))[:2] == ["adjusted", 992]
    assert (await raw("adjust", id="a4", amount=1))[:2] == ["adjusted", 993]
    assert [grant[4:6] for grant in await raw.grants()] == [[3, 1], [1, 992]]
    did = await raw.client.hget(NAMES["ops"], "a1")
    packed = struct.pack("<BBd", 0, 44, 33)
    assert unpack(did) == ["adjust", packed, 0, raw.now, 1, 2, b"why"]
    assert await raw("adjust", id="a1", amount=33, priority=44) == ["adjusted", 993, 1, 2, 1]
    assert await raw("adjust", id="a1", amount=34, priority=44) == [
        "exists_with_different_parameters"
    ]
    assert await raw("grant", id="a1") == ["exists_with_different_parameters"]


async def test_a_debit_takes_every_grant_whatever_it_is_good_for_then_owes(raw: Raw) -> None:
    await raw("grant", id="g2", amount=5, bits=1 << 31)
    await raw("grant", id="g3", amount=6, bits=1, effective_at=raw.now + 1)
    assert await raw("adjust", id="a1", debit=1, amount=1010) == ["adjusted", -5, 1, 4, 0]
    assert (await event(raw))[7] == [1, -1000, 2, -5, 0, -5]
    await raw("adjust", id="a2", amount=8)
    assert (await event(raw))[7] == [0, 5, 4, 3]
    await raw("adjust", id="a3", debit=1, amount=4)
    assert await raw("adjust", id="a4", amount=1) == ["adjusted", 0, 1, 7, 0]
    assert (await event(raw))[7] == [0, 1]
    assert [grant[4] for grant in await raw.grants()] == [3]


async def test_a_grant_repays_what_is_owed_first(valkey: redis.asyncio.Redis) -> None:
    raw = await Raw(valkey).open(0)
    await raw("settle", used=vector(30, 0))
    assert await raw("grant", id="all", amount=30) == ["granted", 1, 0, 1, 2, 0]
    assert (await event(raw))[7] == [0, 30]
    assert await raw.grants() == []
    await raw("settle", "r2", used=vector(30, 0))
    await raw("grant", id="scoped", amount=7, bits=1)
    await raw("grant", id="next", amount=7, effective_at=raw.now + 1)
    assert (await raw.header())["overdraft"] == 30
    assert await raw("grant", id="now", amount=31, effective_at=raw.now) == [
        "granted", 4, 8, 1, 6, 0,
    ]  # fmt: skip
    assert (await event(raw))[7] == [0, 30, 4, 1]
    header = await raw.header()
    assert (header["overdraft"], header["granted"], header["next_no"]) == (0, 75, 5)


async def test_a_grant_lasts_at_least_a_millisecond_of_what_comes(raw: Raw) -> None:
    soon = raw.now + 1
    assert await raw("grant", id="g2", expires_at=raw.now) == ["already_expired"]
    assert await raw("grant", id="g2", expires_at=1) == ["already_expired"]
    assert await raw("grant", id="g2", effective_at=5, expires_at=raw.now) == ["already_expired"]
    later = {"effective_at": soon, "expires_at": soon}
    assert await raw("grant", id="g2", **later) == ["already_expired"]
    assert (await raw("grant", id="g2", expires_at=soon))[0] == "granted"
    assert (await raw("grant", id="g3", effective_at=soon, expires_at=soon + 1))[0] == "granted"
    assert (await raw("quote"))[2] == 1010
    raw.now += 1
    assert (await raw("quote"))[2] == 1010
    raw.now += 1
    assert (await raw("quote"))[2] == 1000


async def test_64_grants_are_open_at_most(valkey: redis.asyncio.Redis) -> None:
    raw = await Raw(valkey).open(0, credit_limit=100)
    for number in range(64):
        assert (await raw("grant", id=f"g{number}", bits=1))[0] == "granted"
    assert await raw("grant", id="g64") == ["too_many_grants"]
    assert await raw("adjust", id="a1", amount=1) == ["too_many_grants"]
    await raw("settle", used=vector(5, 0))
    assert await raw("adjust", id="a1", amount=6) == ["too_many_grants"]
    assert (await raw("adjust", id="a1", amount=5))[0] == "adjusted"


async def test_what_is_exhausted_goes_and_the_counters_stay(raw: Raw) -> None:
    await raw("grant", id="g2", amount=20)
    await raw("grant", id="g3", amount=30)
    await raw("reserve", "r0", mask=3, limits=EVERY_LIMIT)
    await raw("settle", "r0", used=vector(1000, 0), mask=3)
    await raw("reserve", "r1", estimate=vector(20, 0))
    await raw("settle", "r2", used=vector(29, 0))
    counters = await raw.counters()
    await raw("grant", id="g4", amount=40)
    assert [(grant[4], grant[5], grant[6]) for grant in await raw.grants()] == [
        (2, 20, 20), (3, 1, 0), (4, 40, 0),
    ]  # fmt: skip
    await raw("settle", "r1", used=vector(0, 0))
    assert await raw.counters() == counters != []


async def test_a_grant_that_moves_up_keeps_all_it_says(raw: Raw) -> None:
    for number in (2, 3):
        raw.now += number
        await raw("grant", id=f"g{number}", amount=number, category=2, priority=200 + number)
    await raw("settle", used=vector(1000, 0))
    second, third = (await raw.grants())[1:]
    raw.now += 9
    await raw("grant", id="g4", priority=255)
    assert (await raw.grants())[:2] == [second, third]
    assert second[7:] == [0, 0, NOON_MS + 2]


# Who pays


async def test_a_hold_over_many_grants_is_paid_by_each(valkey: redis.asyncio.Redis) -> None:
    raw = await Raw(valkey).open(0)
    for number in range(1, 14):
        await raw("grant", id=f"g{number}", amount=number)
    assert (await raw("quote"))[2] == 91
    assert (await raw("reserve", estimate=vector(91, 0)))[2] == 0
    assert [grant[6] for grant in await raw.grants()] == list(range(1, 14))
    assert (await raw("settle", used=vector(91, 0)))[2] == 0
    paid = (await event(raw))[7]
    assert paid == [value for number in range(1, 14) for value in (number, number)]
    assert [grant[5:7] for grant in await raw.grants()] == [[0, 0]] * 13


async def test_a_hold_grown_twice_names_each_grant_once(valkey: redis.asyncio.Redis) -> None:
    raw = await Raw(valkey).open(0, credit_limit=100)
    for number, amount in enumerate((2, 50, 60), 1):
        await raw("grant", id=f"g{number}", amount=amount)
    await raw("reserve", estimate=vector(10, 0))  # 2 of the first: the second one's number
    await raw("extend", estimate=vector(50, 0), number=1)
    await raw("extend", estimate=vector(112, 0), number=2)
    await raw("extend", estimate=vector(120, 0), number=3)
    await raw("extend", estimate=vector(125, 0), number=4)
    assert (await tail(raw, "r1", PENDING))[:64] == struct.pack("<8d", 1, 2, 2, 50, 3, 60, 0, 13)
    await raw("settle", used=vector(114, 0))
    assert (await event(raw))[7] == [1, 2, 2, 50, 3, 60, 0, 2]


async def test_grants_that_are_not_active_neither_hold_nor_pay(
    valkey: redis.asyncio.Redis,
) -> None:
    raw = await Raw(valkey).open(0, credit_limit=100)
    await raw("grant", id="ended", amount=50, expires_at=raw.now + 10)
    await raw("grant", id="future", amount=50, effective_at=raw.now + 11)
    await raw("grant", id="scoped", amount=50, bits=2)
    raw.now += 10
    await raw("reserve", estimate=vector(10, 0), bits=1)
    assert (await tail(raw, "r1", PENDING))[:16] == struct.pack("<dd", 0, 10)
    await raw("settle", used=vector(12, 0), bits=1)
    assert (await event(raw))[7] == [0, 12]
    await raw("settle", "r2", used=vector(12, 0), bits=6)
    assert (await event(raw))[7] == [3, 12]
    raw.now += 1
    await raw("settle", "r3", used=vector(12, 0), bits=1)
    assert (await event(raw))[7] == [2, 12]


async def test_the_holds_grants_pay_first_in_its_order(raw: Raw) -> None:
    await raw("reserve", estimate=vector(600, 0))
    await raw("grant", id="g2", amount=70, priority=1)
    await raw("settle", used=vector(640, 0))
    assert (await event(raw))[7] == [1, 600, 2, 40]
    assert [grant[5:7] for grant in await raw.grants()] == [[30, 0], [400, 0]]


async def test_the_scope_of_a_hold_is_of_what_it_lacks_too(raw: Raw) -> None:
    await raw("grant", id="g2", amount=70, priority=1, bits=2)
    await raw("reserve", "r1", estimate=vector(80, 0), bits=2)
    assert (await tail(raw, "r1", PENDING))[:32] == struct.pack("<4d", 2, 70, 1, 10)
    await raw("settle", "r1", used=vector(60, 0))
    assert (await event(raw))[7] == [2, 60]
    await raw("reserve", "r2", estimate=vector(1, 0), bits=2)
    await raw("settle", "r2", used=vector(5, 0))
    assert (await event(raw))[7] == [2, 5]


# Settle, release, expire


async def test_a_settle_says_all_it_did_and_again(raw: Raw) -> None:
    await raw("reserve", mask=3, limits=EVERY_LIMIT, cost_rows=COSTS)
    raw.now += 9
    used = {"used": vector(40, 5), "cost_rows": COSTS, "mask": 3, "facts": b"end", "tokens": 45}
    assert await raw("settle", **used) == ["settled", 50, 950, 1, 2, 0]
    assert (await raw.events())[-1] == (
        "1-2", ["settle", "r1:settled", raw.now, 50, 100, 45, 950, [1, 50], [1, 40, 2, 5]], b"end",
    )  # fmt: skip
    assert await raw.unpacked("r1", ENDED) == [
        2, 0, 0, 0, 2, 0, 50, 100, raw.now - 9, raw.now, 1, 2,
    ]  # fmt: skip
    assert await tail(raw, "r1", ENDED) == vector(40, 5)
    assert TOMBSTONE_TTL_MS - 5000 < await pttl(raw, "r1") <= TOMBSTONE_TTL_MS
    assert await raw.counters() == [[11, START, 50, 0], [12, START, 1, 0]]
    assert await raw.counters("project") == [[13, START, 45, 0]]
    assert await raw.counters("key") == [[14, START, 0, 0], [15, START, 50, 0]]
    header = await raw.header()
    assert (header["held"], header["open"], header["settled"]) == (0, 0, 50)
    assert await due(raw) == []
    await raw("grant", id="g2", amount=7)
    assert await raw("settle", **used) == ["settled", 50, 957, 1, 2, 1, "settled"]
    assert await raw("settle", used=vector(40, 6)) == [
        "exists_with_different_usage", 50, 957, 1, 2, 1, "settled",
    ]  # fmt: skip
    for verb in ("release", "extend", "expire"):
        assert await raw(verb) == ["settled", 50, 957, 1, 2, 1]
    assert await raw("reserve") == ["already_ended", "settled"]


async def test_a_settle_without_a_hold_says_all_it_did(raw: Raw) -> None:
    asked = {"reserved_at": raw.now - SETTLE_MAX_AGE_MS, "tokens": 3}
    assert await raw("settle", **asked) == ["settled", 40, 960, 1, 2, 0]
    assert await event(raw) == [
        "settle", "r1:settled", raw.now, 40, 0, False, 960, [1, 40], [1, 40],
    ]  # fmt: skip
    assert await raw.unpacked("r1", ENDED) == [
        2, 0, 0, 0, 2, 0, 40, 0, raw.now - SETTLE_MAX_AGE_MS, raw.now, 1, 2,
    ]  # fmt: skip
    assert (await raw.header())["settled"] == 40
    late = {"reserved_at": raw.now - SETTLE_MAX_AGE_MS - 1}
    assert await raw("settle", "r2", **late) == ["too_old", raw.now]


async def test_a_settle_compares_the_prices_of_the_hold(raw: Raw) -> None:
    await raw("reserve", mask=3, limits=EVERY_LIMIT)
    for other in (rows((1, 0), (3, 0)), rows((2, 0), (1, 0))):
        assert await raw("settle", price_rows=other) == ["exists_with_different_prices"]
    only_first = {"used": vector(40), "price_rows": rows((1, 0))}
    assert await raw("settle", **only_first) == ["exists_with_different_prices"]


@pytest.mark.parametrize("verb", ["settle", "release", "extend", "expire"])
@pytest.mark.parametrize("given", [0, 1, 2])
async def test_a_verb_without_the_holds_scopes_is_told_whose_they_are(
    raw: Raw, verb: str, given: int
) -> None:
    boundaries = (raw.now - 2, raw.now - 1, raw.now + 200_000, raw.now + 300_000)
    limits = limit(1, 1, 3, 500, boundaries) + limit(2, 2, 4, 5, boundaries)
    await raw("reserve", mask=3, limits=limits, cost_rows=COSTS)
    raw.now += 60_000
    before = await raw.dump()
    assert await raw(verb, mask=given) == ["wrong_scopes", "acme\0k1\0team"]
    assert await raw.dump() == before
    assert (await raw(verb, mask=3))[0] in ("settled", "released", "extended", "expired")


async def test_a_release_says_all_it_did_and_again(raw: Raw) -> None:
    await raw("reserve", mask=3, limits=EVERY_LIMIT)
    raw.now += 9
    assert await raw("release", mask=3, facts=b"no") == ["released", 0, 1000, 1, 2, 0]
    assert (await raw.events())[-1] == (
        "1-2", ["release", "r1:released", raw.now, 0, 100, False, 1000, [], []], b"no",
    )  # fmt: skip
    assert await raw.unpacked("r1", ENDED) == [
        3, 0, 0, 0, 0, 0, 0, 100, raw.now - 9, raw.now, 1, 2,
    ]  # fmt: skip
    assert await tail(raw, "r1", ENDED) == b""
    assert TOMBSTONE_TTL_MS - 5000 < await pttl(raw, "r1") <= TOMBSTONE_TTL_MS
    assert await raw.counters() == [[11, START, 0, 0], [12, START, 0, 0]]
    assert await raw.counters("key") == [[14, START, 0, 0], [15, START, 0, 0]]
    assert await due(raw) == []
    header = await raw.header()
    assert (header["held"], header["open"], header["settled"]) == (0, 0, 0)
    for verb in ("release", "extend", "expire"):
        assert await raw(verb) == ["released", 0, 1000, 1, 2, 1]
    assert await raw("settle") == ["released", 0, 1000, 1, 2, 1, "released"]


async def test_a_release_without_a_hold_leaves_a_tombstone_and_no_event(raw: Raw) -> None:
    old = raw.now - SETTLE_MAX_AGE_MS
    assert await raw("release", reserved_at=old - 1) == ["too_old", raw.now]
    assert await raw("release", reserved_at=old) == ["released", 0, 1000, 0, 0, 0]
    assert await raw("release", "r2", reserved_at=0) == ["released", 0, 1000, 0, 0, 0]
    assert await raw.unpacked("r1", ENDED) == [3, 0, 0, 0, 0, 0, 0, 0, old, raw.now, 0, 0]
    assert await raw("release", "r1") == ["released", 0, 1000, 0, 0, 1]
    assert len(await raw.events()) == 2
    assert await raw("release", "r3", reserved_at=1) == ["too_old", raw.now]


async def test_an_expiry_says_all_it_did_and_again(raw: Raw) -> None:
    asked = {"mask": 3, "limits": EVERY_LIMIT, "cost_rows": COSTS}
    await raw("reserve", **asked, floor=vector(20, 3), ttl=30, facts=b"end")
    raw.now += 29
    assert await raw("expire", mask=3) == ["not_due", raw.now + 1]
    raw.now += 1
    assert await raw("expire", mask=3) == ["expired", 26, 974, 1, 2, 0]
    stamp = ["expire", "r1:expired", raw.now, 26, 100, 23, 974, [1, 26], [1, 20, 2, 3]]
    assert (await raw.events())[-1] == ("1-2", stamp, b"end")
    assert await raw.unpacked("r1", ENDED) == [
        4, 0, 1, 5, 2, 3, 26, 100, raw.now - 30, raw.now, 1, 2,
    ]  # fmt: skip
    packed = limits_of(26, 1, 23, 0, 26)
    assert await tail(raw, "r1", ENDED) == struct.pack("<dd", 1, 26) + packed + vector(20, 3)
    assert TOMBSTONE_TTL_MS - 5000 < await pttl(raw, "r1") <= TOMBSTONE_TTL_MS
    assert await raw.counters() == [[11, START, 26, 0], [12, START, 1, 0]]
    assert await raw.counters("project") == [[13, START, 23, 0]]
    header = await raw.header()
    assert (header["held"], header["open"], header["settled"]) == (0, 0, 26)
    assert await due(raw) == []
    for verb in ("expire", "release", "extend"):
        assert await raw(verb) == ["expired", 26, 974, 1, 2, 1]


async def test_an_expiry_counts_as_tokens_what_are_tokens(raw: Raw) -> None:
    units = struct.pack("<BBdd", 19, 0, 1, 0) + struct.pack("<BBdd", 20, 0, 1, 0)
    await raw(
        "reserve", mask=1, limits=limit(1, 3, 13), price_rows=units, floor=vector(4, 8), ttl=1
    )
    raw.now += 1
    assert (await raw("expire", mask=1))[1] == 12
    assert (await raw.counters("project"))[0][2] == 4
    assert (await event(raw))[5] is False


async def test_what_has_no_units_has_no_cost(raw: Raw) -> None:
    nothing = {"estimate": b"", "floor": b"", "price_rows": b""}
    await raw("reserve", **nothing, ttl=1)
    raw.now += 1
    assert (await raw("expire"))[:3] == ["expired", 0, 1000]
    assert (await event(raw))[5] is False
    await raw("settle", "r2", used=b"", price_rows=b"")
    assert (await event(raw))[5] is False


async def test_a_deadline_without_a_hold_is_struck_off(raw: Raw) -> None:
    await raw("reserve")
    await raw.client.delete("{cg:0}:r:r1")
    assert await raw("expire") == ["gone"]
    assert await due(raw) == []
    await raw("reserve", "r2")
    await raw("settle", "r2")
    await raw.client.zadd(NAMES["due"], {"r2": 1})
    assert (await raw("expire", "r2"))[0] == "settled"
    assert await due(raw) == []


@pytest.mark.parametrize(
    ("used", "reply", "stamp", "spent", "tokens"),
    [
        (vector(90, 1), [92, 908, 1, 3, 0], [66, 100, 68, 908, [1, 66], [1, 90, 2, 1]], 92, 91),
        (vector(5, 1), [7, 993, 1, 3, 0], [-19, 100, -17, 993, [1, -19], [1, 5, 2, 1]], 7, 91),
        (vector(20, 3), [26, 974, 1, 3, 0], [0, 100, 0, 974, [], [1, 20, 2, 3]], 26, 91),
    ],
)
async def test_a_late_settle_says_all_it_did_and_again(
    raw: Raw, used: bytes, reply: list[Any], stamp: list[Any], spent: int, tokens: int
) -> None:
    asked = {"mask": 3, "limits": EVERY_LIMIT, "cost_rows": COSTS}
    await raw("reserve", **asked, floor=vector(20, 3), ttl=30)
    raw.now += 30
    await raw("expire", mask=3)
    raw.now += 7
    said = {"used": used, "cost_rows": COSTS, "mask": 3, "tokens": tokens, "facts": b"late"}
    assert await raw("settle", **said) == ["settled_late", *reply]
    assert (await raw.events())[-1] == (
        "1-3", ["settle_late", "r1:settled_late", raw.now, *stamp], b"late",
    )  # fmt: skip
    assert await raw.unpacked("r1", ENDED) == [
        5, 0, 0, 0, 2, 0, spent, 100, raw.now - 37, raw.now, 1, 3,
    ]  # fmt: skip
    assert await raw.counters() == [[11, START, spent, 0], [12, START, 1, 0]]
    assert await raw.counters("project") == [[13, START, tokens, 0]]
    assert await raw.counters("key") == [[14, START, 0, 0], [15, START, spent, 0]]
    assert (await raw.header())["settled"] == spent
    again = ["settled_late", *reply[:4], 1]
    assert await raw("settle", **said) == [*again, "settled_late"]
    assert (await raw("settle", used=vector(1, 1)))[0] == "exists_with_different_usage"
    for verb in ("expire", "release", "extend"):
        assert await raw(verb) == again


async def test_the_cost_of_a_late_settle_is_a_difference_only_where_the_expiry_had_one(
    raw: Raw,
) -> None:
    """An expiry that could not rate what it charged named no cost for it."""
    await raw("reserve", ttl=1, floor=vector(20, 0))
    raw.now += 1
    await raw("expire")
    await raw("settle", used=vector(30, 0))
    assert (await event(raw))[5] is False


@pytest.mark.parametrize(
    ("used", "moved", "left"),
    [
        (1, [0, -15, 3, -30, 2, -20, 1, -2], [2, 20, 30]),
        (33, [0, -15, 3, -20], [0, 0, 20]),
        (52, [0, -15, 3, -1], [0, 0, 1]),
        (53, [0, -15], [0, 0, 0]),
        (67, [0, -1], [0, 0, 0]),
    ],
)
async def test_a_late_settle_gives_back_to_who_paid_the_last_one_first(
    valkey: redis.asyncio.Redis, used: int, moved: list[int], left: list[int]
) -> None:
    raw = await Raw(valkey).open(0)
    for number, amount in enumerate((3, 20, 30), 1):
        await raw("grant", id=f"g{number}", amount=amount)
    await raw("reserve", estimate=vector(53, 0), floor=vector(68, 0), ttl=1)
    raw.now += 1
    assert (await raw("expire"))[:3] == ["expired", 68, -15]
    assert (await event(raw))[7] == [1, 3, 2, 20, 3, 30, 0, 15]
    await raw("settle", used=vector(used, 0))
    assert (await event(raw))[7] == moved
    assert [grant[4:6] for grant in await raw.grants()] == [
        [number, rest] for number, rest in enumerate(left, 1)
    ]
    header = await raw.header()
    assert (header["overdraft"], header["settled"]) == (max(used - 53, 0), used)


async def test_what_a_late_settle_charges_more_is_paid_by_its_models_grants(raw: Raw) -> None:
    await raw("grant", id="g2", amount=50, priority=1, bits=2)
    await raw("grant", id="g3", amount=50, priority=2, bits=4)
    for rid in ("r1", "r2"):
        await raw("reserve", rid, estimate=vector(9, 0), floor=vector(9, 0), ttl=1)
    raw.now += 1
    await raw("expire", "r1")
    await raw("expire", "r2")
    await raw("settle", "r1", used=vector(19, 0), bits=2, reserved_at=0)
    assert (await event(raw))[7] == [2, 10]
    await raw("settle", "r2", used=vector(19, 0), bits=4, reserved_at=0)
    assert (await event(raw))[7] == [3, 10]
    await raw("settle", "r3", used=vector(19, 0), bits=4)
    assert (await event(raw))[7] == [3, 19]
    assert (await raw("settle", "r4", used=vector(19, 0)))[0] == "settled"
    assert (await event(raw))[7] == [1, 19]


async def test_a_late_settle_by_other_units_names_its_whole_cost(raw: Raw) -> None:
    """Nothing tells what its expiry said of the cost."""
    await raw("reserve", ttl=1, cost_rows=COSTS)
    raw.now += 1
    await raw("expire")
    one = rows((1, 0))
    await raw("settle", used=vector(33), price_rows=one, cost_rows=one)
    assert (await event(raw))[3:6] == [13, 100, 33]


async def test_prices_are_compared_as_bytes(raw: Raw) -> None:
    """Units 37, 40 and 91 are the signs of a pattern: per cent and brackets."""
    odd = b"".join(struct.pack("<BBdd", unit, 0, 1, 0) for unit in (37, 40, 91))
    used = {"price_rows": odd}
    await raw("reserve", estimate=vector(9, 9, 9), floor=vector(1, 1, 1), **used)
    assert (await raw("settle", used=vector(2, 2, 2), **used))[:2] == ["settled", 6]


async def test_a_late_settle_gives_back_whatever_numbers_grants_have(raw: Raw) -> None:
    """Those that stand by chance where the record of the expiry ends, too."""
    await raw("reserve", estimate=vector(9, 0), floor=vector(9, 0), ttl=1)
    raw.now += 1
    await raw("expire")
    for number in range(70, 73):
        await raw.client.setrange(NAMES["account"], 8 + 11 * 8, struct.pack("<d", number))
        await raw("grant", id=f"g{number}")
    await raw("settle", used=vector(2, 0))
    assert (await event(raw))[7] == [1, -7]


@pytest.mark.parametrize("back", [1, 2, 10])
async def test_a_nano_that_nobody_paid_for_any_more_is_a_grant_too(raw: Raw, back: int) -> None:
    await raw("reserve", estimate=vector(1000, 0), floor=vector(1000, 0), ttl=1)
    raw.now += 1
    await raw("expire")
    await raw("grant", id="g2", amount=9)
    await raw("settle", used=vector(1000 - back, 0))
    assert (await event(raw))[7] == [3, -back]


async def test_what_a_late_settle_gives_back_to_nobody_is_a_grant_burned_last(raw: Raw) -> None:
    await raw("reserve", estimate=vector(1000, 0), floor=vector(1000, 0), ttl=1)
    raw.now += 1
    await raw("expire")
    await raw("grant", id="g2", amount=9, priority=200)
    await raw("settle", used=vector(990, 0))
    assert (await event(raw))[7] == [3, -10]
    assert await raw.grants() == [
        [1, 200, 0, 0, 2, 9, 0, 0, 0, raw.now],
        [4, 255, 0, 0, 3, 10, 0, 0, 0, raw.now],
    ]


async def test_a_late_settle_takes_no_counter_for_a_grant_that_is_gone(raw: Raw) -> None:
    """The second counter's id is the number of the grant that paid."""
    limits = limit(0, 2, 5, 9) + limit(0, 2, 1, 9)
    await raw("reserve", "r0", estimate=vector(0, 0), limits=limits)
    await raw("reserve", estimate=vector(1000, 0), floor=vector(1000, 0), ttl=1)
    raw.now += 10
    assert (await raw.counters())[1][0] == 1
    await raw("expire")
    await raw("grant", id="g2", amount=9)
    await raw("settle", used=vector(990, 0))
    assert (await event(raw))[7] == [3, -10]


# Extend


async def test_an_extend_says_all_it_did_and_again(raw: Raw) -> None:
    asked = {"mask": 3, "limits": EVERY_LIMIT, "cost_rows": COSTS, "bits": 2, "facts": b"said"}
    await raw("reserve", **asked)
    raw.now += 11
    more = {"mask": 3, "estimate": vector(120, 4), "floor": vector(50, 6), "tokens": 17, "ttl": 99}
    assert await raw("extend", number=3, **more) == ["extended", 128, 872, raw.now + 99, 1]
    assert await raw.unpacked("r1", PENDING) == [
        1, 0, 1, 5, 2, 3, 36, 36, 12, 2, 128, raw.now - 11, raw.now + 99, 3, 17,
    ]  # fmt: skip
    packed = limits_of(128, 1, 17, 1, 128)
    body = vector(120, 4) + vector(50, 6) + Raw.ROWS + COSTS + Raw.IDS + b"said"
    assert await tail(raw, "r1", PENDING) == struct.pack("<dd", 1, 128) + packed + body
    assert await raw.counters() == [[11, START, 0, 128], [12, START, 0, 1]]
    assert await raw.counters("project") == [[13, START, 0, 17]]
    assert await due(raw) == [(b"r1", raw.now + 99)]
    before = await raw.dump()
    raw.now += 1
    for number in (2, 3):
        reply = await raw("extend", number=number, **more)
        assert reply == ["extended", 128, 872, raw.now + 98, 1]
    grown = {**more, "estimate": vector(129, 0)}
    assert await raw("extend", number=3, **grown) == [
        "not_grown", 128, 872, raw.now + 98, "recorded", 1,
    ]  # fmt: skip
    assert await raw.dump() == before
    smaller = {"mask": 3, "estimate": vector(1, 0), "floor": vector(60, 7), "tokens": 1, "ttl": 200}
    assert await raw("extend", number=4, **smaller) == ["extended", 128, 872, raw.now + 200, 1]
    vectors = vector(120, 4) + vector(60, 7)
    body = struct.pack("<dd", 1, 128) + packed + vectors + body[len(vectors) :]
    assert await tail(raw, "r1", PENDING) == body
    assert await raw.counters() == [[11, START, 0, 128], [12, START, 0, 1]]
    assert (await raw.unpacked("r1", PENDING))[12:] == [raw.now + 200, 4, 17]
    tokens_alone = {**smaller, "tokens": 18}
    assert (await raw("extend", number=5, **tokens_alone))[:3] == ["extended", 128, 872]
    assert await raw.counters("project") == [[13, START, 0, 18]]


async def test_neither_the_hold_nor_its_tokens_ever_shrink(raw: Raw) -> None:
    limits = limit(0, 1, 1) + limit(0, 3, 2)
    await raw("reserve", limits=limits)
    for number, (units, tokens, held) in enumerate(((99, 8, (100, 8)), (101, 7, (101, 8))), 1):
        reply = await raw("extend", number=number, estimate=vector(units, 0), tokens=tokens)
        assert reply[:3] == ["extended", held[0], 1000 - held[0]]
        assert tuple(counter[3] for counter in await raw.counters()) == held
        record = await raw.unpacked("r1", PENDING)
        assert (record[10], record[14]) == held


async def test_an_extend_by_the_last_nano_and_by_one_more(raw: Raw) -> None:
    await raw("reserve", "r0", estimate=vector(899, 0))
    assert (await raw("extend", "r0", number=1, estimate=vector(1001, 0)))[4] == (
        "insufficient_credits"
    )
    await raw("reserve")
    assert (await raw("extend", number=1, estimate=vector(101, 0)))[:3] == ["extended", 101, 0]
    assert (await raw("extend", number=2, estimate=vector(102, 0)))[1:] == [
        101, 0, raw.now + 60_000, "credit_held", 1,
    ]  # fmt: skip


async def test_an_extend_that_may_not_grow_keeps_the_hold_as_it_was(raw: Raw) -> None:
    await raw("reserve", "r0", estimate=vector(300, 0))
    await raw("reserve", mask=3, limits=EVERY_LIMIT)
    whole, header = await raw.dump(), await raw.header()
    for number, (units, reason) in enumerate(
        [(701, "credit_held"), (1000, "credit_held"), (1001, "insufficient_credits")], 1
    ):
        raw.now += 1
        reply = await raw("extend", number=number, mask=3, estimate=vector(units, 0))
        assert reply == ["not_grown", 100, 600, raw.now + 60_000, reason, 1]
    now = await raw.dump()
    changed = {key for key in now if now[key] != whole[key]}
    assert changed == {NAMES["due"], b"{cg:0}:r:r1", NAMES["account"]}
    assert {k: v for k, v in (await raw.header()).items() if v != header[k]} == {
        "growth_wanted": raw.now - 1 + 500  # by what was refused for other holds' sake
    }
    assert (await raw("extend", number=9, mask=3, estimate=vector(700, 0)))[:3] == [
        "extended", 700, 0,
    ]  # fmt: skip


async def test_an_extend_goes_up_to_a_limit_and_no_further(raw: Raw) -> None:
    limits = limit(0, 1, 1, 300) + limit(2, 3, 2, 30) + limit(2, 2, 3, 1)
    await raw("reserve", mask=2, limits=limits)
    await raw("settle", "r0", used=vector(5, 0), mask=2)

    async def extend(number: int, units: int, tokens: int) -> list[Any]:
        reply = await raw("extend", number=number, mask=2, estimate=vector(units, 0), tokens=tokens)
        return [reply[0], *reply[4:-1]]

    assert await extend(1, 301, 7) == ["not_grown", "spend_limit"]
    assert await extend(2, 100, 31) == ["not_grown", "rate_limit"]
    assert await extend(3, 301, 31) == ["not_grown", "spend_limit"]
    assert await extend(4, 300, 30) == ["extended"]
    assert [counter[3] for counter in await raw.counters("key")] == [30, 1]


async def test_an_extend_minds_only_the_limits_it_adds_to(raw: Raw) -> None:
    limits = limit(0, 1, 1, 150) + limit(0, 3, 2, 50)
    await raw("reserve", "r0", limits=limits, estimate=vector(50, 0))
    await raw("reserve", limits=limits)
    await raw("settle", "r0", used=vector(200, 0))
    assert (await raw("extend", tokens=9))[0] == "extended"
    assert [counter[3] for counter in await raw.counters()] == [100, 9]


async def test_an_extend_leaves_a_window_alone_that_has_passed(raw: Raw) -> None:
    await raw("reserve", limits=limit(0, 1, 1, 150))
    boundaries = (NOON_MS - 1000, NOON_MS + 100_000, NOON_MS + 200_000, NOON_MS + 300_000)
    raw.now += 100_000
    await raw("reserve", "r2", estimate=vector(120, 0), limits=limit(0, 1, 1, 150, boundaries))
    assert (await raw("extend", estimate=vector(180, 0)))[0] == "extended"
    assert await raw.counters() == [[1, NOON_MS + 100_000, 0, 120]]
    await raw("settle", "r1", used=vector(170, 0))
    assert await raw.counters() == [[1, NOON_MS + 100_000, 0, 120]]


async def test_a_frozen_wallet_grows_no_hold_and_keeps_it(raw: Raw) -> None:
    await raw("reserve")
    await raw("account", id="acme", rev=2, status=1)
    assert (await raw("extend", number=1, estimate=vector(100, 0)))[0] == "extended"
    reply = await raw("extend", number=2, estimate=vector(2000, 0))
    assert reply[4] == "wallet_frozen"
    assert (await raw("extend", number=3, estimate=vector(101, 0)))[4] == "wallet_frozen"


async def test_a_killed_wallet_says_so_at_each_sign_of_life(raw: Raw) -> None:
    await raw("reserve")
    await raw("account", id="acme", rev=2, status=2)
    assert (await raw.header())["status"] == 2
    for number, units in ((1, 100), (2, 101), (3, 2000)):
        raw.now += 1
        reply = await raw("extend", number=number, estimate=vector(units, 0), floor=vector(30, 0))
        assert reply == ["not_grown", 100, 900, raw.now + 60_000, "wallet_killed", 2]
    assert (await tail(raw, "r1", PENDING))[-36 - 12 - 5 - 16 :][:16] == vector(30, 0)
    assert await raw("reserve", "r2", rev=2) == ["wallet_frozen"]
    assert (await raw("settle", used=vector(30, 0)))[:2] == ["settled", 30]


async def test_what_was_refused_for_other_holds_keeps_new_requests_back_for_a_while(
    raw: Raw,
) -> None:
    await raw("reserve", "r0", estimate=vector(800, 0))
    await raw("reserve")
    raw.now = at = raw.now + 10
    assert (await raw("extend", number=1, estimate=vector(201, 0)))[4] == "credit_held"
    held, one = ["credit_held", 1, 100, 1000], {"estimate": vector(1, 0)}
    for now in (at, at + 499):
        raw.now = now
        assert await raw("reserve", "r2", **one) == held
        assert await raw("quote", **one) == held
        assert await raw("afford", **one) == held
    assert (await raw("reserve", "r3", estimate=vector(0, 0)))[0] == "held", "it takes no credit"
    assert (await raw("extend", number=2, estimate=vector(101, 0)))[0] == "extended"
    for now in (at + 500, at - 1):  # the second: a clock that was set back
        raw.now = now
        assert (await raw("quote", **one))[0] == "allow"
        assert (await raw("afford", **one))[0] == "affordable"
    assert (await raw("reserve", "r4", **one))[0] == "held"


async def test_a_growth_that_is_refused_marks_nothing_but_for_other_holds(raw: Raw) -> None:
    await raw("reserve", limits=limit(0, 1, 1, 300))
    for number, units in ((1, 1001), (2, 301)):
        assert (await raw("extend", number=number, estimate=vector(units, 0)))[0] == "not_grown"
    assert (await raw.header())["growth_wanted"] == 0
    assert [counter[3] for counter in await raw.counters()] == [100]


# What is affordable


@pytest.mark.parametrize(
    ("least", "step", "steps", "fits"),
    [
        (100, 10, 90, 90), (100, 10, 91, 90), (100, 10, 89, 89), (101, 10, 95, 89), (1000, 1, 9, 0),
        (0, 1, 1000, 1000), (0, 1, 2000, 1000), (0, 0, 7, 7), (999, 2, 5, 0), (0, 1000, 5, 1),
    ],
)  # fmt: skip
async def test_what_is_affordable_is_found_to_the_step(
    raw: Raw, least: int, step: int, steps: int, fits: int
) -> None:
    asked = {"estimate": vector(least, 0), "step": vector(step, 0), "steps": steps}
    before = await raw.dump()
    reply = await raw("afford", **asked)
    assert reply == ["affordable", least + fits * step, 1000, 1000, fits, 0]
    assert await raw.dump() == before
    if least + fits * step:
        whole = {"estimate": vector(least + fits * step, 0)}
        assert (await raw("reserve", **whole))[:2] == ["held", least + fits * step]


async def test_what_others_hold_is_not_affordable(raw: Raw) -> None:
    await raw("reserve", "r0", estimate=vector(950, 0))
    assert await raw("afford", estimate=vector(1, 0), step=vector(1, 1), steps=99) == [
        "affordable", 49, 50, 1000, 16, 1,
    ]  # fmt: skip
    assert await raw("afford", estimate=vector(51, 0)) == ["credit_held", 51, 50, 1000]
    assert await raw("afford", estimate=vector(1001, 0)) == ["insufficient_credits", 1001, 50, 1000]
    await raw("account", rev=2, status=1)
    assert await raw("afford", estimate=vector(1, 0)) == ["wallet_frozen", 1, 50, 1000]


# Accounts


async def test_terms_change_with_a_higher_revision(raw: Raw) -> None:
    assert await raw("account", rev=3, limit=77, facts=b"up") == ["updated", 3, 1000, 1, 2]
    assert (await raw.events())[-1] == (
        "1-2", ["account", "account:r1:3", raw.now, 0, 0, False, 1000, [], []], b"up",
    )  # fmt: skip
    before = await raw.dump()
    assert await raw("account", rev=3, limit=77) == ["unchanged", 3]
    for changed in ({"limit": 78}, {"limit": 77, "status": 1}):
        assert await raw("account", rev=3, **changed) == ["exists_with_different_parameters", 3]
    assert await raw("account", rev=2, limit=77) == ["old_revision", 3]
    assert await raw.dump() == before
    assert await raw("account", rev=0, limit=5, status=0, bump=1) == ["updated", 4, 1000, 1, 3]
    header = await raw.header()
    assert (header["rev"], header["credit_limit"], header["status"]) == (4, 77, 0)
    await raw("account", rev=5, limit=77, status=1)
    await raw("account", bump=1)
    assert (await raw.header())["status"] == 1


async def test_a_bump_of_no_account_changes_nothing(valkey: redis.asyncio.Redis) -> None:
    raw = Raw(valkey)
    assert await raw("account", bump=1) == ["unknown_account"]
    assert await raw.dump() == {}


def unpack(packed: bytes) -> list[Any]:
    """Msgpack as Lua writes it: text and bytes are the same to it."""
    values: list[Any] = msgpack.unpackb(packed, raw=True)
    return [value.decode() if at == 0 else value for at, value in enumerate(values)]
