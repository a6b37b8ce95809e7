"""Boundaries of windows and limits, each from both sides, by the records of the counters."""

import struct
from typing import Any

import pytest
import redis.asyncio

from tests.ledger.bench import NOON_MS
from tests.ledger.raw import NAMES, Raw, limit, vector

BEFORE, START, NEXT, AFTER = NOON_MS - 10, NOON_MS, NOON_MS + 10, NOON_MS + 20
BORDERS = (BEFORE, START, NEXT, AFTER)


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Raw:
    raw = await Raw(valkey).open(0)
    await raw("grant", id="g1", amount=10_000, effective_at=1)
    return raw


def later(windows: int) -> tuple[int, int, int, int]:
    """The boundaries so many windows later."""
    return BEFORE + 10 * windows, START + 10 * windows, NEXT + 10 * windows, AFTER + 10 * windows


@pytest.mark.parametrize(
    ("now", "window", "ends"),
    [
        (BEFORE - 1, None, 0),
        (BEFORE, BEFORE, START),
        (START - 1, BEFORE, START),
        (START, START, NEXT),
        (NEXT - 1, START, NEXT),
        (NEXT, NEXT, AFTER),
        (AFTER - 1, NEXT, AFTER),
        (AFTER, None, 0),
    ],
)
async def test_the_clock_picks_the_window(
    raw: Raw, now: int, window: int | None, ends: int
) -> None:
    raw.now = now
    limits = limit(0, 1, 1, 150, BORDERS)
    reply = await raw("reserve", limits=limits)
    if window is None:
        assert reply == ["stale_windows", now]
        assert await raw("quote", limits=limits) == ["stale_windows", 100, 10_000, 10_000]
        return
    assert await raw.counters() == [[1, window, 0, 100]]
    assert await raw("reserve", "r2", limits=limits) == [
        "spend_limit", 100, 9_900, 10_000, 0, 50, 0,
    ], "what is held comes back"  # fmt: skip
    await raw("settle", used=vector(100, 0))
    assert await raw("reserve", "r2", limits=limits) == [
        "spend_limit", 100, 9_900, 9_900, 0, 50, ends - now,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        limit(0, 0, 1), limit(0, 5, 1), limit(1, 1, 1), limit(2, 1, 1), limit(3, 1, 1),
        limit(0, 1, 1, -1), limit(0, 1, 1, float("nan")),
    ],
    ids=["measure 0", "measure 5", "no project", "no key", "no scope", "negative", "nan"],
)  # fmt: skip
async def test_a_row_that_is_no_limit_is_refused(raw: Raw, row: bytes) -> None:
    before = await raw.dump()
    assert await raw("reserve", limits=row) == ["bad_limits"]
    assert await raw.dump() == before
    assert await raw("quote", limits=row) == ["bad_limits"]


@pytest.mark.parametrize(
    ("measure", "word"),
    [(1, "spend_limit"), (2, "rate_limit"), (3, "rate_limit"), (4, "concurrency_limit")],
)
async def test_a_ceiling_of_nothing_admits_nothing(raw: Raw, measure: int, word: str) -> None:
    reply = await raw("reserve", limits=limit(0, measure, 1, 0))
    assert (reply[0], reply[5], reply[6]) == (word, 0, -1)
    assert (await raw("quote", limits=limit(0, measure, 1, 0)))[0] == word


async def test_what_adds_nothing_passes_a_ceiling_of_nothing(raw: Raw) -> None:
    limits = limit(0, 1, 1, 0) + limit(0, 3, 2, 0)
    assert (await raw("reserve", estimate=vector(0, 0), tokens=0, limits=limits))[0] == "held"


async def test_the_first_row_that_refuses_is_named(raw: Raw) -> None:
    limits = limit(0, 1, 1, 100) + limit(0, 2, 2, 5) + limit(0, 1, 3, 99) + limit(0, 3, 4, 6)
    assert (await raw("reserve", limits=limits))[4:6] == [2, 99]
    assert await raw.counters() == []


async def test_used_and_held_both_fill_a_limit(raw: Raw) -> None:
    limits = limit(0, 1, 1, 250)
    await raw("reserve", "r1", limits=limits)
    await raw("settle", "r1", used=vector(30, 0))
    await raw("reserve", "r2", limits=limits)
    assert await raw.counters() == [[1, NOON_MS - 1000, 30, 100]]
    asked = {"limits": limits, "estimate": vector(121, 0)}
    assert (await raw("reserve", "r3", **asked))[5] == 120
    assert (await raw("reserve", "r3", limits=limits, estimate=vector(120, 0)))[0] == "held"


async def test_more_counters_than_grants_are_each_found_again(raw: Raw) -> None:
    limits = b"".join(limit(scope, 2, n, 100) for scope in (0, 1, 2) for n in range(1, 8))
    for rid in ("r1", "r2"):
        await raw("reserve", rid, mask=3, limits=limits)
    await raw("settle", "r1", mask=3)
    for key in ("account", "project", "key"):
        assert await raw.counters(key) == [[n, NOON_MS - 1000, 1, 1] for n in range(1, 8)]


async def test_a_late_settle_corrects_each_of_many_counters(raw: Raw) -> None:
    limits = b"".join(limit(scope, 1, n, 500) for scope in (0, 1, 2) for n in range(1, 8))
    await raw("reserve", mask=3, limits=limits, ttl=1)
    raw.now += 1
    await raw("expire", mask=3)
    await raw("settle", mask=3, used=vector(33, 0))
    for key in ("account", "project", "key"):
        assert await raw.counters(key) == [[n, NOON_MS - 1000, 33, 0] for n in range(1, 8)]


async def test_a_scope_met_first_by_a_second_limit_has_both_counters(raw: Raw) -> None:
    await raw("reserve", "r1", mask=2, limits=limit(2, 2, 1, 9))
    await raw("reserve", "r2", mask=3, limits=limit(2, 2, 2, 9) + limit(2, 2, 1, 9))
    assert await raw.counters("key") == [
        [1, NOON_MS - 1000, 0, 2], [2, NOON_MS - 1000, 0, 1],
    ]  # fmt: skip
    assert await raw.unpacked("key", "<BBBB") == [1, 0, 2, 0]
    assert await raw.unpacked("project", "<BBBB") == [1, 0, 0, 0]


async def test_a_quote_counts_in_scopes_that_nobody_has_met(raw: Raw) -> None:
    limits = limit(1, 2, 1, 1) + limit(2, 1, 2, 99)
    before = await raw.dump()
    assert await raw("quote", mask=3, limits=limits) == ["spend_limit", 100, 10_000, 10_000]
    limits = limit(1, 2, 1, 1) + limit(2, 1, 2, 100)
    assert (await raw("quote", mask=3, limits=limits))[0] == "allow"
    assert await raw.dump() == before


async def test_a_hold_without_limits_touches_no_scope(raw: Raw) -> None:
    await raw("reserve", mask=3)
    await raw.client.delete(NAMES["project"], NAMES["key"])
    await raw("extend", mask=3, estimate=vector(120, 0))
    await raw("settle", mask=3)
    assert not await raw.client.exists(NAMES["project"], NAMES["key"])


async def test_a_counter_rolls_to_any_later_window(raw: Raw) -> None:
    for windows in (0, 1, 2, 4):
        raw.now = START + 10 * windows
        rid = f"r{windows}"
        await raw("reserve", rid, limits=limit(0, 1, 1, 900, later(windows)))
        assert await raw.counters() == [[1, raw.now, 0, 100]]
        await raw("settle", rid, used=vector(100, 0))


async def test_rows_packed_a_window_ahead_serve_the_one_before(raw: Raw) -> None:
    raw.now = 5
    asked: dict[str, Any] = {"estimate": vector(0, 0), "tokens": 0}
    await raw("reserve", "r1", **asked, limits=limit(0, 2, 1, 9, (-10, 0, 10, 20)))
    await raw("settle", "r1", used=vector(0, 0))
    assert await raw.counters() == [[1, 0, 1, 0]]
    raw.now = 15
    await raw("reserve", "r2", **asked, limits=limit(0, 2, 1, 9, (10, 20, 30, 40)))
    assert await raw.counters() == [[1, 10, 0, 1]]


async def test_a_hold_taken_by_a_clock_gone_back_is_counted_where_it_was_held(raw: Raw) -> None:
    limits = limit(0, 1, 1, 900, BORDERS)
    raw.now = NEXT
    await raw("reserve", "r1", limits=limits)
    raw.now = START
    await raw("reserve", "r2", limits=limits)
    assert await raw.counters() == [[1, NEXT, 0, 200]]
    await raw("settle", "r2", used=vector(60, 0))
    assert await raw.counters() == [[1, NEXT, 60, 100]]


@pytest.mark.parametrize("verb", ["settle", "release", "expire"])
async def test_a_window_that_has_passed_is_left_alone(raw: Raw, verb: str) -> None:
    await raw("reserve", "r1", limits=limit(0, 1, 1, 900, BORDERS), ttl=1)
    raw.now = NEXT
    await raw("reserve", "r2", limits=limit(0, 1, 1, 900, BORDERS))
    await raw(verb, "r1")
    assert await raw.counters() == [[1, NEXT, 0, 100]]
    if verb == "expire":
        await raw("settle", "r1", used=vector(90, 0))
        assert await raw.counters() == [[1, NEXT, 0, 100]]


async def test_what_is_used_stops_at_the_bound_of_a_number(raw: Raw) -> None:
    await raw("reserve", "r1", tokens=5, limits=limit(0, 3, 1, 9e15))
    await raw("settle", "r1", tokens=9e15)
    await raw("reserve", "r2", tokens=0, limits=limit(0, 3, 1, 9e15), ttl=1)
    await raw("settle", "r2", tokens=3)
    assert (await raw.counters())[0][2] == 9e15
    await raw("reserve", "r3", tokens=0, limits=limit(0, 3, 1, 9e15), ttl=1, floor=vector(9, 0))
    raw.now += 1
    await raw("expire", "r3")
    await raw("settle", "r3", tokens=11)
    assert (await raw.counters())[0][2] == 9e15


async def test_counters_that_went_missing_are_not_made_anew_by_an_ending(raw: Raw) -> None:
    """A scope's record that is gone, as after a restore without it, stops no settle."""
    await raw("reserve", mask=3, limits=limit(1, 1, 1) + limit(2, 1, 2) + limit(0, 1, 3))
    await raw.client.delete(NAMES["project"], NAMES["key"])
    assert (await raw("extend", mask=3, estimate=vector(110, 0)))[0] == "extended"
    assert (await raw("settle", mask=3))[:3] == ["settled", 40, 9_960]
    assert await raw.counters() == [[3, NOON_MS - 1000, 40, 0]]
    assert not await raw.client.exists(NAMES["project"], NAMES["key"])


async def test_a_limit_of_the_record_is_as_it_was_asked(raw: Raw) -> None:
    await raw("reserve", mask=2, limits=limit(2, 3, 77, 8))
    record = await raw.client.get("{cg:0}:r:r1")
    assert struct.pack("<BBIddd", 2, 3, 77, NOON_MS - 1000, 8, 7) in record
