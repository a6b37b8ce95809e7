"""Rolling windows: boundaries of slots to the millisecond, the records of rings, and walks in which no
stretch of a window's length admits more than the ceiling."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import redis.asyncio

from gateway.domain.limits import SLOTS, Limit, Measure, Window
from gateway.domain.pricing import compile_prices
from gateway.domain.reservation import Account, Denied, Hold
from tests.ledger.bench import NOON_MS, Bench
from tests.ledger.raw import Raw, limit, rolling, vector
from tests.ledger.test_oracle import Compared
from tests.ledger.walk import ROLLING, Answer, Call, Walk, two_gates
from tests.ledger.wallet import Status

SLOT = 5_000


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Raw:
    raw = await Raw(valkey).open(0)
    await raw("grant", id="g1", amount=1_000_000, effective_at=1)
    return raw


def ring(used: float, held: float, *slots: tuple[float, float], counter: int = 1) -> list[float]:
    """A ring's record: slots from the last one back, the others empty."""
    pairs = [*slots, *[(0.0, 0.0)] * (SLOTS - len(slots))]
    return [counter, SLOT, used, held, *(number for pair in pairs for number in pair)]


async def reserve(raw: Raw, rid: str, units: float, limits: bytes, **more: Any) -> list[Any]:
    return await raw("reserve", rid, estimate=vector(units, 0), limits=limits, **more)


# Slots


async def test_a_new_counter_has_an_empty_ring(raw: Raw) -> None:
    raw.now += 4_999
    await reserve(raw, "r1", 100, rolling())
    assert await raw.counters() == [[1, NOON_MS, 0, 100]]
    assert await raw.rings() == [ring(0, 0)]


async def test_the_present_slot_goes_into_the_ring_with_what_it_used_and_holds(raw: Raw) -> None:
    limits = rolling()
    await reserve(raw, "r1", 100, limits)
    await raw("settle", "r1", used=vector(30, 0))
    await reserve(raw, "r2", 50, limits)
    raw.now = NOON_MS + SLOT - 1
    await reserve(raw, "r3", 7, limits)
    assert await raw.counters() == [[1, NOON_MS, 30, 57]]
    raw.now += 1
    await reserve(raw, "r4", 9, limits)
    assert await raw.counters() == [[1, NOON_MS + SLOT, 0, 9]]
    assert await raw.rings() == [ring(30, 57, (30, 57))]
    raw.now += 3 * SLOT
    await reserve(raw, "r5", 11, limits)
    assert await raw.counters() == [[1, NOON_MS + 4 * SLOT, 0, 11]]
    assert await raw.rings() == [ring(30, 66, (0, 0), (0, 0), (0, 9), (30, 57))]


@pytest.mark.parametrize("later", [1, 2, 11, 12, 13, 14, 1000])
async def test_a_slot_counts_for_twelve_more(raw: Raw, later: int) -> None:
    limits = rolling()
    await reserve(raw, "r1", 100, limits)
    raw.now += SLOT
    await reserve(raw, "r2", 20, limits)
    raw.now += (later - 1) * SLOT
    await reserve(raw, "r3", 3, limits)
    of_r1, of_r2 = (100, 0) if later <= 12 else (0, 0), (20, 0) if later <= 13 else (0, 0)
    if later == 1:
        assert await raw.counters() == [[1, raw.now, 0, 23]]
        return
    slots = [(0.0, 0.0)] * SLOTS
    for back, held in ((later - 1, 20), (later, 100)):
        if back <= SLOTS:
            slots[back - 1] = (0, held)
    assert await raw.counters() == [[1, raw.now, 0, 3]]
    assert await raw.rings() == [ring(0, of_r1[0] + of_r2[0], *slots)]


async def test_a_full_ring_drops_its_oldest_slot_alone(raw: Raw) -> None:
    limits = rolling(ceiling=9e15)
    for number in range(16):
        await reserve(raw, f"r{number}", 100, limits)
        await raw("settle", f"r{number}", used=vector(number + 1, 0))
        raw.now += SLOT
    used = [(16 - back, 0) for back in range(1, SLOTS + 1)]
    assert await raw.rings() == [ring(sum(x for x, _ in used), 0, *used)]
    assert await raw.counters() == [[1, raw.now - SLOT, 16, 0]]


async def test_used_and_held_of_every_slot_fill_the_limit(raw: Raw) -> None:
    limits = rolling(ceiling=200)
    await reserve(raw, "r1", 100, limits)
    await raw("settle", "r1", used=vector(60, 0))
    await reserve(raw, "r2", 50, limits)
    raw.now += 12 * SLOT
    await reserve(raw, "r3", 70, limits)
    refused = await reserve(raw, "r4", 21, limits)
    assert (refused[0], refused[5]) == ("spend_limit", 20)
    assert (await reserve(raw, "r4", 20, limits))[0] == "held"
    assert (await reserve(raw, "r5", 1, limits))[5] == 0
    raw.now += SLOT - 1
    assert (await reserve(raw, "r5", 1, limits))[5] == 0
    raw.now += 1
    assert (await reserve(raw, "r5", 110, limits))[0] == "held", "r2's hold counts no more either"


@pytest.mark.parametrize("later", [13, 14, 1000])
async def test_a_counter_that_has_rested_has_its_whole_ceiling_at_once(
    raw: Raw, later: int
) -> None:
    limits = rolling(ceiling=200)
    await reserve(raw, "r1", 100, limits)
    await raw("settle", "r1", used=vector(60, 0))
    await reserve(raw, "r2", 50, limits)
    raw.now += later * SLOT
    assert (await reserve(raw, "r3", 201, limits))[0] == "spend_limit"
    assert (await reserve(raw, "r3", 200, limits))[0] == "held"
    assert (await reserve(raw, "r4", 1, limits))[5] == 0


# Holds that end in a later slot


@pytest.mark.parametrize("back", [1, 2, 11, 12])
@pytest.mark.parametrize("verb", ["settle", "release", "expire"])
async def test_an_ending_counts_in_the_slot_of_its_reserve(raw: Raw, verb: str, back: int) -> None:
    limits = rolling(counter=7) + rolling() + limit(0, 2, 9)
    await reserve(raw, "r1", 100, limits, ttl=1)
    await reserve(raw, "r2", 30, limits)
    raw.now += back * SLOT
    await reserve(raw, "r3", 5, limits)
    await raw(verb, "r1")
    used = {"settle": 40, "release": 0, "expire": 20}[verb]
    slots = [*[(0.0, 0.0)] * (back - 1), (used, 30.0)]
    assert await raw.rings() == [
        ring(used, 30, *slots, counter=7), ring(used, 30, *slots),
    ]  # fmt: skip
    assert [row[2:] for row in await raw.counters()] == [[0, 5], [0, 5], [int(used > 0), 2]]
    if verb == "expire":
        await raw("settle", "r1", used=vector(33, 0))
        slots[-1] = (33, 30)
        assert await raw.rings() == [
            ring(33, 30, *slots, counter=7), ring(33, 30, *slots),
        ]  # fmt: skip


@pytest.mark.parametrize("verb", ["settle", "release", "expire"])
async def test_an_ending_after_its_slot_counted_counts_nowhere(raw: Raw, verb: str) -> None:
    await reserve(raw, "r1", 100, rolling(), ttl=1)
    raw.now += 13 * SLOT
    await reserve(raw, "r2", 5, rolling())
    before = await raw.rings()
    await raw(verb, "r1")
    if verb == "expire":
        await raw("settle", "r1", used=vector(33, 0))
    assert await raw.rings() == before == [ring(0, 0)]
    assert await raw.counters() == [[1, raw.now, 0, 5]]


async def test_an_ending_does_not_move_the_slots(raw: Raw) -> None:
    await reserve(raw, "r1", 100, rolling())
    raw.now += 3 * SLOT
    await raw("settle", "r1")
    assert await raw.counters() == [[1, NOON_MS, 40, 0]]


@pytest.mark.parametrize(
    ("back", "ceiling", "word"),
    [(0, 150, "extended"), (0, 149, "not_grown"), (12, 155, "extended"), (12, 154, "not_grown"),
     (13, 154, "extended")],
)  # fmt: skip
async def test_a_hold_grows_in_the_slot_of_its_reserve(
    raw: Raw, back: int, ceiling: int, word: str
) -> None:
    limits = rolling(ceiling=ceiling)
    await reserve(raw, "r1", 100, limits)
    raw.now += back * SLOT
    if back:
        await reserve(raw, "r2", 5, limits)
    before = await raw.counters(), await raw.rings()
    assert (await raw("extend", "r1", estimate=vector(150, 0)))[0] == word
    if word == "not_grown" or back == 13:
        assert (await raw.counters(), await raw.rings()) == before
    elif back == 0:
        assert await raw.counters() == [[1, NOON_MS, 0, 150]]
    else:
        assert await raw.rings() == [ring(0, 150, *[(0, 0)] * 11, (0, 150))]
    await raw("settle", "r1", used=vector(0, 0))
    assert (await raw.counters())[0][2:] == [0, 5 if back else 0]
    assert (await raw.rings())[0][2:4] == [0, 0]


async def test_what_a_slot_has_used_stops_at_the_bound_of_a_number(raw: Raw) -> None:
    limits = rolling(0, 3, ceiling=9e15)
    await raw("reserve", "r1", tokens=5, limits=limits)
    await raw("reserve", "r2", tokens=5, limits=limits)
    raw.now += SLOT
    await raw("reserve", "r3", tokens=1, limits=limits)
    await raw("settle", "r1", tokens=9e15)
    await raw("settle", "r2", tokens=3)
    assert await raw.rings() == [ring(9e15, 0, (9e15, 0))]


# The clock


async def test_a_clock_that_goes_back_reopens_no_slot(raw: Raw) -> None:
    limits = rolling(ceiling=150)
    await reserve(raw, "r1", 100, limits)
    raw.now -= 1
    assert (await reserve(raw, "r2", 51, limits))[5] == 50
    raw.now -= 100 * SLOT
    assert (await reserve(raw, "r2", 51, limits))[5] == 50
    assert (await reserve(raw, "r2", 20, limits))[0] == "held"
    assert await raw.counters() == [[1, NOON_MS, 0, 120]], "held where the counter stands"
    await raw("settle", "r2", used=vector(10, 0))
    assert await raw.counters() == [[1, NOON_MS, 10, 100]]
    assert await raw.rings() == [ring(0, 0)]


# When a retry helps


async def test_a_refusal_says_when_enough_has_aged(raw: Raw) -> None:
    limits = rolling(ceiling=100)
    for number, units in enumerate((30, 40, 20)):
        await reserve(raw, f"r{number}", units, limits)
        await raw("settle", f"r{number}", used=vector(units, 0))
        raw.now += 2 * SLOT
    raw.now += 17
    ages = {slot: NOON_MS + (slot + 13) * SLOT - raw.now for slot in (0, 2, 4)}
    for units, retry in (
        (11, ages[0]), (40, ages[0]), (41, ages[2]), (80, ages[2]), (81, ages[4]), (100, ages[4]),
        (101, -1),
    ):  # fmt: skip
        assert (await reserve(raw, "r9", units, limits))[4:] == [0, 10, retry]
    await reserve(raw, "r3", 5, limits)
    assert (await reserve(raw, "r9", 10, limits))[4:] == [0, 5, 0], "what others hold comes back"
    assert (await reserve(raw, "r9", 11, limits))[4:] == [0, 5, ages[0]]
    for units, retry in ((11, ages[0]), (41, ages[2]), (81, ages[4])):
        start, raw.now = raw.now, raw.now + retry - 1
        await raw("release", "r3")
        assert (await reserve(raw, "r9", units, limits))[0] == "spend_limit"
        raw.now += 1
        assert (await reserve(raw, f"s{units}", units, limits))[0] == "held"
        await raw("release", f"s{units}")
        raw.now = start


async def test_what_the_present_slot_has_used_ages_last(raw: Raw) -> None:
    limits = rolling(ceiling=100)
    await reserve(raw, "r1", 100, limits)
    await raw("settle", "r1", used=vector(100, 0))
    raw.now += 4_000
    assert (await reserve(raw, "r2", 1, limits))[4:] == [0, 0, 13 * SLOT - 4_000]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
async def test_the_limit_that_refuses_longest_is_named(raw: Raw, order: tuple[int, ...]) -> None:
    raw.now += 10_000
    kinds = (
        rolling(0, 2, 1, 1),  # 60 s and what is left of the slot
        limit(0, 2, 2, 1, (0, NOON_MS, NOON_MS + 70_000, NOON_MS + 140_000)),
        limit(0, 4, 3, 1, (0, 0, 1 << 52, 1 << 52)),
        rolling(0, 2, 4, 1, slot=5_500),
    )
    waits = (65_000, 60_000, 0, 13 * 5_500 - raw.now % 5_500)
    limits = b"".join(kinds[number] for number in order)
    await raw("reserve", "r1", limits=limits)
    await raw("settle", "r1")
    await reserve(raw, "r2", 1, kinds[2])
    refused = await raw("reserve", "r3", limits=limits)
    longest = max(range(4), key=lambda number: waits[number])
    assert refused[4:] == [order.index(longest), 0, waits[longest]]


async def test_of_those_that_refuse_as_long_the_first_is_named(raw: Raw) -> None:
    limits = limit(0, 2, 1, 9) + limit(0, 1, 2, 5) + limit(0, 3, 3, 5)
    assert (await raw("reserve", limits=limits))[4] == 1


async def test_a_total_that_is_used_up_is_used_up_for_ever(raw: Raw) -> None:
    limits = limit(0, 2, 1, 1, (0, 0, 1 << 52, 1 << 52))
    await raw("reserve", "r1", limits=limits)
    await raw("settle", "r1")
    assert (await raw("reserve", "r2", limits=limits))[6] == -1


async def test_a_window_met_by_a_clock_gone_back_ends_when_it_ends(raw: Raw) -> None:
    boundaries = (NOON_MS - 10, NOON_MS, NOON_MS + 10, NOON_MS + 20)
    raw.now += 15
    await raw("reserve", "r1", limits=limit(0, 2, 1, 1, boundaries))
    await raw("settle", "r1")
    raw.now -= 12
    assert (await raw("reserve", "r2", limits=limit(0, 2, 1, 1, boundaries)))[6] == 17


# Rows that are none, and records with many counters


@pytest.mark.parametrize("slot", [0, 0.5, 1.5, -5, 9e15 + 2, float("nan"), float("inf")])
async def test_a_length_that_is_none_is_refused(raw: Raw, slot: float) -> None:
    before = await raw.dump()
    assert (await raw("reserve", limits=rolling(slot=slot)))[0] in ("bad_limits", "stale_windows")
    assert await raw.dump() == before


@pytest.mark.parametrize("slot", [1, 9e15])
async def test_a_slot_may_be_as_short_and_as_long_as_a_number(raw: Raw, slot: float) -> None:
    assert (await raw("reserve", limits=rolling(slot=slot)))[0] == "held"
    assert (await raw.rings())[0][:2] == [1, slot]


async def test_a_counter_keeps_its_length_and_kind(raw: Raw) -> None:
    await raw("reserve", "r1", limits=rolling(counter=1) + limit(0, 1, 2))
    for other in (rolling(counter=1, slot=4_000), rolling(counter=2)):
        assert (await raw("reserve", "r2", limits=other))[0] == "bad_limits"


async def test_each_of_many_rings_is_found_again(raw: Raw) -> None:
    limits = b"".join(rolling(scope, 2, n, 100) for scope in (0, 1, 2) for n in (3, 1, 2))
    for rid in ("r1", "r2"):
        await raw("reserve", rid, mask=3, limits=limits)
        raw.now += SLOT
    await raw("settle", "r1", mask=3)
    for key in ("account", "project", "key"):
        assert await raw.counters(key) == [[n, raw.now - SLOT, 0, 1] for n in (3, 1, 2)]
        assert await raw.rings(key) == [ring(1, 0, (1, 0), counter=n) for n in (3, 1, 2)]


DEAD_MS = 33 * 86_400_000


@pytest.mark.parametrize("scope", [0, 2])
async def test_a_new_counter_has_those_go_that_have_not_moved_for_long(
    raw: Raw, scope: int
) -> None:
    key, mask = ("key", 2) if scope else ("account", 0)
    endless = (0, 0, 1 << 52, 1 << 52)

    def window(start: float) -> tuple[float, float, float, float]:
        return (start - 1, start, start + 1, start + 2)

    limits = (
        rolling(scope, 2, 1, 9) + limit(scope, 2, 2, 9, window(NOON_MS))
        + limit(scope, 2, 3, 9, endless) + rolling(scope, 2, 4, 9, slot=4_000)
    )  # fmt: skip
    await raw("reserve", "r1", mask=mask, limits=limits)
    raw.now += SLOT
    for rid in ("r2", "s2"):
        more = rolling(scope, 2, 1, 9) + limit(scope, 2, 3, 9, endless)
        await raw("reserve", rid, mask=mask, limits=more)
    raw.now = NOON_MS + DEAD_MS
    await raw("reserve", "r3", mask=mask, limits=limit(scope, 2, 5, 9, window(raw.now)))
    assert [row[0] for row in await raw.counters(key)] == [1, 2, 3, 4, 5]
    raw.now += 1
    await raw("reserve", "r4", mask=mask, limits=rolling(scope, 2, 6, 9, slot=1))
    assert await raw.counters(key) == [
        [1, NOON_MS + SLOT, 0, 2], [3, 0, 0, 3], [5, raw.now - 1, 0, 1], [6, raw.now, 0, 1],
    ]  # fmt: skip
    assert await raw.rings(key) == [ring(0, 1, (0, 1)), [6, 1, *[0] * 26]]
    for rid in ("r1", "r2", "s2", "r3", "r4"):
        await raw("release", rid, mask=mask)
    assert [row[3] for row in await raw.counters(key)] == [0, 0, 0, 0]
    raw.now += 2 * DEAD_MS
    limits = limit(scope, 2, 7, 9, window(raw.now)) + limit(scope, 2, 8, 9, window(raw.now))
    await raw("reserve", "r5", mask=mask, limits=limits)
    assert await raw.counters(key) == [[3, 0, 0, 0], [7, raw.now, 0, 1], [8, raw.now, 0, 1]]
    assert await raw.rings(key) == []


async def test_a_record_has_room_for_two_hundred_counters(raw: Raw) -> None:
    limits = b"".join(limit(2, 2, n, 9) for n in range(200))
    assert (await raw("reserve", "r1", mask=2, limits=limits))[0] == "held"
    before = await raw.dump()
    assert (await raw("reserve", "r2", mask=2, limits=limit(2, 2, 200, 9)))[0] == "bad_limits"
    assert await raw.dump() == before
    assert (await raw("reserve", "r2", mask=2, limits=limit(2, 2, 199, 9)))[0] == "held"
    assert len(await raw.counters("key")) == 200


# Models


async def test_each_model_counts_by_itself_and_beside_the_customer(
    valkey: redis.asyncio.Redis,
) -> None:
    dear = Limit("model", "requests", "day", 1, model="dear")
    other = Limit("model", "requests", "day", 2, model="other")
    every = Limit("customer", "requests", "day", 4)
    bench = await Bench(valkey).open(1000, dear, other, every)
    await bench.held("r1", 1, model="dear")
    denied = await bench.denied("r2", 1, model="dear")
    assert (denied.reason, denied.limit, denied.limit_of) == ("rate_limit", dear, "dear")
    await bench.held("r2", 1, model="other")
    await bench.held("r3", 1, model="other")
    assert (await bench.denied("r4", 1, model="other")).limit_of == "other"
    await bench.held("r4", 1, model="plain")
    denied = await bench.denied("r5", 1)
    assert (denied.limit, denied.limit_of) == (every, "acme")
    for rid in ("r1", "r2", "r3", "r4"):
        await bench.settle(rid, 1)
    used = {counter.counter_id: counter.used for counter in (await bench.wallet()).counters}
    assert used == {dear.counter_id: 1, other.counter_id: 2, every.counter_id: 4}
    quote = bench.ledger.quote
    asked = (bench.account, bench.table, bench.vector(1))
    decisions = [(await quote(*asked, tokens=1, model=m)).decision for m in ("dear", "plain")]
    assert decisions == ["rate_limit", "rate_limit"]
    assert await bench.differences() == []


# Walks


@dataclass
class Limited(Walk):
    """A walk under limits alone: credit is no matter, one unit costs one nano-credit."""

    customers = ("rolling",)
    tables = (compile_prices({"input": 1_000}),)
    weights: ClassVar[Mapping[str, int]] = {
        "reserve": 40, "extend": 12, "settle": 28, "release": 6, "expire": 14,
    }  # fmt: skip

    async def open(self) -> None:
        shard = self.ledger.keys.shard_of("rolling")
        scaled = [
            Limit(x.scope, x.measure, x.window, SPEND[x.window], x.rolling, x.model)
            if x.measure == "spend"
            else x
            for x in ROLLING
        ]
        account = Account("rolling", "k1", shard, 1, "team", limits=tuple(scaled))
        self.accounts["rolling"] = account
        terms: tuple[int, int, Status, int] = (1, 10**12, "active", 1)
        await self._account("rolling", terms).real()
        self.model.account("rolling", terms, self.now)

    def later(self) -> None:
        dice = self.dice
        if dice.random() < 0.03:
            self.pace = dice.choice(WALKS)
        self.now += dice.choice(self.pace)

    def some(self) -> str | None:
        """Mostly one that still runs, so that what is used fills the limits, not what is held."""
        running = list(self.model.holds)
        if running and self.dice.random() < 0.8:
            return self.dice.choice(running)
        return super().some()

    def again(self, rid: str) -> Call:
        call = super().again(rid)

        async def real() -> Answer:
            answer = await call.real()
            if len(answer) == 4:
                self.refusals.add((answer[1], answer[3] is not None and answer[3] > 0))
            return answer

        return replace(call, real=real)

    refusals: set[tuple[Limit, bool]] = field(default_factory=set)


SPEND = {"day": 1_100, "week": 1_900, "month": 9_000}
WALKS = (
    (0, 1, 1_000, 2_500, 4_999, 5_000),
    (0, 30_000, 299_999, 300_000, 1_800_000),
    (0, 3_600_000, 7_200_000, 43_200_000),
    (1_000, 20_000, -5_000, -60_000, 3_600_000, -3_600_000),
)


@pytest.mark.timeout(0)
async def test_limits_of_every_kind_agree_with_the_model(valkey: redis.asyncio.Redis) -> None:
    walk = two_gates(Limited, valkey, 6)
    await walk.open()
    compared = Compared(walk, valkey)
    await compared.check(walk.customers)
    for _ in range(500):
        await compared.step()
    by_time = {limit for limit, waits in walk.refusals if waits}
    assert len(by_time) >= 3, "several have refused for a time"


KINDS: tuple[tuple[Measure, Window], ...] = (
    ("requests", "minute"), ("tokens", "minute"), ("spend", "minute"), ("tokens", "hour"),
    ("spend", "day"), ("requests", "week"), ("tokens", "month"),
)  # fmt: skip


@pytest.mark.parametrize(("measure", "window"), KINDS)
@pytest.mark.timeout(0)
async def test_no_stretch_of_the_window_s_length_admits_more_than_the_ceiling(
    valkey: redis.asyncio.Redis, measure: Measure, window: Window
) -> None:
    """The exact sliding count over every stretch (t - length, t], each beginning at a request; and
    what the counter says at most a slot too much: older than a slot more than the window is free."""
    ceiling = 12 if measure == "requests" else 500
    limit = Limit("customer", measure, window, ceiling, rolling=True)
    length = limit.slot_ms * SLOTS
    bench = await Bench(valkey).open(10**9, limit)
    dice = random.Random(f"{measure} {window}")
    counted: list[tuple[int, str, int]] = []  # when, id, amount held and then used
    running: list[str] = []
    refused = 0
    for number in range(250):
        rid = f"r{number}"
        bench.now += dice.choice((0, 0, length // 400, length // 90, length // 30, length // 12))
        if dice.random() < 0.1:
            slot = limit.slot_ms
            bench.now += slot - bench.now % slot + dice.choice((-1, 0, 1))
        units = dice.randrange(1, 120)
        adds = 1 if measure == "requests" else units
        within = sum(amount for at, _, amount in counted if at > bench.now - length)
        answer = await bench.reserve(rid, units)
        if isinstance(answer, Hold):
            assert within + adds <= ceiling
            counted.append((bench.now, rid, adds))
            running.append(rid)
        else:
            refused += 1
            older = limit.slot_ms + length
            assert adds + sum(n for at, _, n in counted if at > bench.now - older) > ceiling
            await _admitted_after(bench, answer, units, running)
        while running and dice.random() < 0.5:
            ends = running.pop(dice.randrange(len(running)))
            at = next(i for i, (_, known, _) in enumerate(counted) if known == ends)
            when, _, amount = counted[at]
            used = dice.randrange(amount + 1) if measure != "requests" else 1
            await bench.settle(ends, used)
            counted[at] = (when, ends, used)
    assert refused > 20
    for at, _, _ in counted:
        assert sum(n for when, _, n in counted if at - length < when <= at) <= ceiling
    assert await bench.differences() == []


async def _admitted_after(bench: Bench, denied: Denied, units: int, running: list[str]) -> None:
    """Not a millisecond before it was told, and then at once, where nothing runs."""
    if running or not denied.retry_after_ms:
        return
    now = bench.now
    bench.now = now + denied.retry_after_ms - 1
    assert not isinstance(await bench.reserve("early", units), Hold)
    quoted = bench.ledger.quote
    bench.now += 1
    asked = (bench.account, bench.table, bench.vector(units))
    assert (await quoted(*asked, tokens=units)).decision == "allow"
    bench.now = now
