"""Boundaries of the rating of tiered rows: where a tier ends and the next begins, to the pico-credit; fractions of
a nano-credit with minimums; the largest numbers; rows that are no price. Every sum was worked out by
hand, and is given next to its number."""

import struct
from typing import Any

import pytest
import redis.asyncio

from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.scripts import load_scripts
from tests.ledger.raw import NAMES, ROW, Raw, rows, vector


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Raw:
    return await Raw(valkey).open()


GRADUATED, VOLUME, PACKAGE, FLAT = 1, 2, 3, 4
TOTAL = 6
"""The kind of a period that never ends."""
MOST = 9_000_000_000_000_000
MOST_UNITS = 1_000_000_000_000
PICO = ROW.pack(2, 0, 0, 1)
"""A row without tiers: one pico-credit a unit."""
PERIOD = struct.Struct("<Idddddd")

Tier = tuple[float, float, float, float]
"""Up to (0: no end), nano, pico, flat."""


def tiered(
    shape: int, *tiers: Tier, included: float = 0, least: float = 0, size: float = 1,
    minimum: float = 0, kind: int = TOTAL, counter: int = 7, n_tiers: int | None = None,
) -> bytes:  # fmt: skip
    """One row. least: of a request; minimum: of a period; size: of a package."""
    n_tiers = len(tiers) if n_tiers is None else n_tiers
    head = struct.pack(
        "<BBBBIdddd", 1, shape, n_tiers, kind, counter, included, least, size, minimum
    )
    return head + b"".join(struct.pack("<dddd", *tier) for tier in tiers)


def standing(used: float) -> bytes:
    """A counter of a total that has counted so much."""
    return PERIOD.pack(7, 0, MOST, used, 0, 0, 0)


async def rated(raw: Raw, row: bytes, *uses: tuple[float, ...], periods: bytes = b"") -> list[Any]:
    """What each use is charged, one after the other; or the word of a refusal."""
    n = len(uses[0])
    packed = b"".join(struct.pack("<d", raw.now) + vector(*use) for use in uses)
    args = [struct.pack("<BB", 1, n), row, b"", periods, packed]
    word, *values = await RedisRunner(raw.client).run(load_scripts()["rate"], [], args)
    return values[1::2] if word == b"rated" else [word.decode()]


async def quoted(raw: Raw, row: bytes, *units: float) -> Any:
    """What a reserve of so much would hold; or the word of a refusal."""
    reply = await raw("quote", estimate=vector(*units), price_rows=row)
    return reply[1] if len(reply) > 1 else reply[0]


async def used(raw: Raw, row: bytes, *units: float) -> None:
    """Count so much, settled without a hold."""
    assert (await raw("settle", "before", used=vector(*units), price_rows=row))[0] == "settled"


async def period(raw: Raw) -> list[float]:
    """The only one of the record, behind the only grant: id, start, end, used, held, before, used."""
    return list(PERIOD.unpack_from(await raw.client.get(NAMES["account"]), 120 + 56))


async def stands(raw: Raw, row: bytes, units: float) -> None:
    """Have the account's counter stand there, which no number of tests could count up to."""
    await used(raw, row, 1)
    record = bytearray(await raw.client.get(NAMES["account"]))
    struct.pack_into("<d", record, 120 + 56 + 20, units)
    await raw.client.set(NAMES["account"], bytes(record))
    assert (await period(raw))[3] == units


# Parts of a nano-credit


@pytest.mark.parametrize("shape", [GRADUATED, VOLUME, PACKAGE])
@pytest.mark.parametrize(
    ("units", "pico"),
    [(999, 1), (1000, 1), (1001, 1), (1001, 999), (2000, 1), (10**6, 1), (MOST_UNITS, 999)],
)
async def test_pico_credits_become_whole_ones_a_thousand_at_a_time(
    raw: Raw, shape: int, units: int, pico: int
) -> None:
    row = tiered(shape, (0, 3, pico, 0))
    assert await rated(raw, row, (units,)) == [3 * units - -units * pico // 1000]


async def test_what_moves_no_counter_takes_nothing_from_another_unit(raw: Raw) -> None:
    row = tiered(GRADUATED, (0, 7, 0, 0), included=5) + PICO
    assert await rated(raw, row, (3, 1)) == [1]
    assert await quoted(raw, row, 3, 1) == 1


async def test_a_flat_price_is_its_amount_alone_and_takes_nothing_from_another_unit(
    raw: Raw,
) -> None:
    row = tiered(FLAT, (0, 5, 5, 900)) + PICO  # the tier's rate is not looked at
    assert await rated(raw, row, (3, 0)) == [900]
    assert await rated(raw, row, (3, 1), (3, 1)) == [901, 1]
    assert await quoted(raw, row, 3, 1) == 901


async def test_a_late_settle_of_less_gives_back_to_the_pico_credit(raw: Raw) -> None:
    row = tiered(GRADUATED, (0, 0, 1, 0))
    await raw("reserve", estimate=vector(3000), floor=vector(2002), price_rows=row, ttl=5)
    raw.now += 5
    assert (await raw("expire"))[:2] == ["expired", 3]  # 2.002
    late = await raw("settle", used=vector(2001), price_rows=row)
    assert late[:2] == ["settled_late", 3]  # 2.001


async def test_an_event_names_what_was_used_of_tiers_and_nothing_else(raw: Raw) -> None:
    row = tiered(GRADUATED, (0, 1, 0, 0)) + PICO
    for quantities, usage in (((1, 0), [1, 1]), ((0, 1), [2, 1]), ((3, 4), [1, 3, 2, 4])):
        await raw(
            "settle", f"r{len(usage)}{quantities[0]}", used=vector(*quantities), price_rows=row
        )
        assert (await raw.events())[-1][1][8] == usage


# Minimums


async def test_a_period_begun_beyond_its_minimum_costs_what_it_is(raw: Raw) -> None:
    row = tiered(GRADUATED, (0, 0, 1, 0), minimum=2)
    assert await rated(raw, row, (2001,)) == [3]  # 2.001
    assert await rated(raw, row, (2001,), (999,), (1,)) == [3, 1, 1]


async def test_a_minimum_of_one_nano_credit_is_one_too(raw: Raw) -> None:
    row = tiered(GRADUATED, (0, 0, 1, 0), minimum=1)
    assert await rated(raw, row, (1,), (1,), (998,), (1,)) == [1, 0, 0, 1]


@pytest.mark.parametrize("name", ["least", "minimum"])
async def test_a_minimum_is_compared_with_whole_nano_credits(raw: Raw, name: str) -> None:
    beyond = tiered(GRADUATED, (0, 0, 667, 0), **{name: 2})
    assert await rated(raw, beyond, (3,)) == [3]  # 2.001
    assert await quoted(raw, beyond, 3) == 3
    below = tiered(GRADUATED, (0, 0, 999, 0), **{name: 1}) + PICO
    assert await rated(raw, below, (1, 1)) == [2]  # 0.999, so 1; and 0.001
    assert await quoted(raw, below, 1, 1) == 2


async def test_less_than_a_nano_credit_is_raised_to_the_minimum_of_a_request(raw: Raw) -> None:
    row = tiered(GRADUATED, (0, 0, 1, 0), least=5)
    assert await rated(raw, row, (1,), (0,), (6000,)) == [5, 0, 6]
    assert await quoted(raw, row, 1) == 5


async def test_what_is_credited_is_raised_to_no_minimum(raw: Raw) -> None:
    row = tiered(VOLUME, (1, 2, 0, 0), (0, 0, 500, 0), least=3)
    assert await rated(raw, row, (1,), (1,)) == [3, -1]  # 2 × 0.5 less 1 × 2


async def test_a_late_settle_owes_the_minimum_of_a_request_as_a_timely_one(raw: Raw) -> None:
    row = tiered(GRADUATED, (0, 2, 0, 0), least=50)
    await raw("reserve", estimate=vector(9), floor=vector(3), price_rows=row, ttl=5)
    raw.now += 5
    assert (await raw("expire"))[:2] == ["expired", 50]
    late = await raw("settle", used=vector(4), price_rows=row)
    assert late[:2] == ["settled_late", 50]  # 4 × 2, and it has moved beyond where it began


# Where tiers meet


async def test_the_flat_amount_of_a_volume_tier_is_charged_once(raw: Raw) -> None:
    row = tiered(VOLUME, (0, 1, 0, 10))
    assert await rated(raw, row, (1,), (1,), (1,)) == [11, 1, 1]


async def test_rows_of_one_counter_stand_each_on_those_before_it(raw: Raw) -> None:
    row = tiered(GRADUATED, (10, 10, 0, 0), (20, 5, 0, 0), (0, 1, 0, 0))
    assert await rated(raw, row * 3, (10, 10, 10)) == [100 + 50 + 10]
    assert await quoted(raw, row * 3, 10, 10, 10) == 100 + 100 + 100  # it may be the first of all
    await used(raw, row * 3, 5, 5, 5)
    assert (await period(raw))[3] == 15


async def test_a_tier_that_is_full_makes_nothing_dearer(raw: Raw) -> None:
    row = tiered(GRADUATED, (10, 5, 0, 900), (0, 2, 0, 0))
    await used(raw, row, 10)
    assert await quoted(raw, row, 1) == 2


async def test_the_first_tier_s_flat_amount_is_held_for_the_first_unit_alone(raw: Raw) -> None:
    row = tiered(GRADUATED, (0, 2, 0, 900))
    assert await quoted(raw, row, 1) == 902
    await used(raw, row, 1)
    assert await quoted(raw, row, 1) == 2


@pytest.mark.parametrize("shape", [GRADUATED, VOLUME])
async def test_what_is_free_holds_nothing(raw: Raw, shape: int) -> None:
    assert await quoted(raw, tiered(shape, (0, 0, 0, 0)), 1) == 0


@pytest.mark.parametrize("shape", [GRADUATED, VOLUME])
async def test_beyond_the_end_of_the_last_tier_nothing_costs(raw: Raw, shape: int) -> None:
    row = tiered(shape, (1000, 1, 0, 0))
    await used(raw, row, 1000)
    await raw("settle", "r2", used=vector(1000), price_rows=row)
    assert await quoted(raw, row, 1000) == 0


async def test_a_rising_volume_step_is_held_to_the_pico_credit(raw: Raw) -> None:
    row = tiered(VOLUME, (1, 0, 999, 0), (0, 2, 0, 0))
    await used(raw, row, 1)
    assert await quoted(raw, row, 1) == 4  # 2, and 1.001 for the one before


async def test_a_rising_volume_step_is_held_for_a_thousand_units_before(raw: Raw) -> None:
    row = tiered(VOLUME, (1000, 0, 0, 0), (0, 1, 0, 0))
    await used(raw, row, 1000)
    assert await quoted(raw, row, 1) == 1001


# The largest numbers


@pytest.mark.parametrize("shape", [GRADUATED, VOLUME])
async def test_the_last_tier_ends_beyond_where_any_counter_stands(raw: Raw, shape: int) -> None:
    row = tiered(shape, (0, 2, 0, 0))
    assert await rated(raw, row, (3,), periods=standing(MOST - 1)) == [6]
    await stands(raw, row, MOST)
    assert await quoted(raw, row, 3) == 6


async def test_a_volume_step_goes_up_to_the_bound_of_a_number(raw: Raw) -> None:
    row = tiered(VOLUME, (9000, 1e12, 0, 0), (0, 0, 0, 0))
    assert await rated(raw, row, (9000,), (1,)) == [MOST, -MOST]
    row = tiered(VOLUME, (1e13, 0, 900, 0), (0, 0, 0, 0))
    assert await rated(raw, row, (1,), periods=standing(1e13)) == [-9 * 10**12]


async def test_a_part_of_a_volume_step_beyond_the_bound_is_refused_whatever_the_sum(
    raw: Raw,
) -> None:
    row = tiered(VOLUME, (9001, 1e12, 0, 0), (0, 0, 0, 1e12))
    assert await rated(raw, row, (1,), periods=standing(9001)) == ["too_large"]
    row = tiered(VOLUME, (9001, 0, 0, MOST), (0, 1e12, 0, 0))
    assert await rated(raw, row, (1,), periods=standing(9001)) == ["too_large"]
    row = tiered(VOLUME, (1e13, 0, 901, 0), (0, 0, 0, 0))
    assert await rated(raw, row, (1,), periods=standing(1e13)) == ["too_large"]


@pytest.mark.parametrize("shape", [GRADUATED, VOLUME])
async def test_a_unit_of_tiers_costs_up_to_the_bound_of_a_number(raw: Raw, shape: int) -> None:
    row = tiered(shape, (0, 1e12, 0, 0))
    assert await rated(raw, row, (9000,)) == [MOST]
    assert await quoted(raw, row, 9000) == MOST
    assert await rated(raw, row, (9001,)) == ["too_large"]
    assert await quoted(raw, row, 9001) == "too_large"


async def test_a_unit_beyond_the_bound_is_refused_whatever_another_gives_back(raw: Raw) -> None:
    row = tiered(VOLUME, (9000, 1e12, 0, 0), (0, 0, 0, 0)) + ROW.pack(2, 0, 1e12, 0)
    assert await rated(raw, row, (1, 9000), periods=standing(9000)) == [0]
    assert await rated(raw, row, (1, 9001), periods=standing(9000)) == ["too_large"]


# Vectors and rows that are no usage and no price

END = tiered(GRADUATED, (0, 1, 0, 0))
"""A row of tiers: behind it, rows without are read as they are beside tiers."""


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(
    ("quantity", "fits"),
    [
        (0, True), (1, True), (MOST_UNITS, True), (MOST_UNITS + 1, False), (-1, False),
        (0.5, False), (-0.5, False), (float("nan"), False),
    ],
)  # fmt: skip
async def test_a_quantity_beside_tiers_is_whole_and_within_bounds(
    raw: Raw, at: int, quantity: float, fits: bool
) -> None:
    units = [1.0, 1.0]
    units[at] = quantity
    row = END + ROW.pack(2, 0, 1, 0)
    expected = int(quantity) + 1 if fits else "bad_quantity"
    assert await quoted(raw, row, *units) == expected
    assert await rated(raw, row, tuple(units)) == [expected]


RATES = [
    ((0, 0), 0),
    ((1e12, 0), 10**12),
    ((0, 999), 1),
    ((1, 1), 2),
    ((1e12 + 1, 0), "bad_rate"),
    ((-1, 0), "bad_rate"),
    ((0.5, 0), "bad_rate"),
    ((float("nan"), 0), "bad_rate"),
    ((1, 1000), "bad_rate"),
    ((1, 1001), "bad_rate"),
    ((1, -1), "bad_rate"),
    ((1, 0.5), "bad_rate"),
    ((1, float("nan")), "bad_rate"),
]


@pytest.mark.parametrize(("rate", "charge"), RATES)
async def test_a_rate_is_whole_and_within_bounds_in_a_tier_and_beside_tiers(
    raw: Raw, rate: tuple[float, float], charge: int | str
) -> None:
    assert await quoted(raw, END + ROW.pack(2, 0, *rate), 0, 1) == charge
    assert await quoted(raw, tiered(GRADUATED, (0, *rate, 0)), 1) == charge


@pytest.mark.parametrize("name", ["included", "least", "size", "minimum"])
async def test_a_number_of_a_row_is_whole_and_within_bounds(raw: Raw, name: str) -> None:
    for value in (-1, 0.5, float("nan"), MOST + 1):
        changed: Any = {name: value}
        assert await quoted(raw, tiered(GRADUATED, (0, 1, 0, 0), **changed), 1) == "bad_rate"
    changed = {name: MOST}
    most = {"included": 0, "least": MOST, "size": 1, "minimum": MOST}[name]
    assert await quoted(raw, tiered(GRADUATED, (0, 1, 0, 0), **changed), 1) == most


async def test_a_package_has_at_least_one_unit(raw: Raw) -> None:
    assert await quoted(raw, tiered(PACKAGE, (0, 3, 0, 0), size=0), 2) == "bad_rate"
    assert await quoted(raw, tiered(PACKAGE, (0, 3, 0, 0), size=1), 2) == 6


@pytest.mark.parametrize("value", [-1, 0.5, float("nan"), MOST + 1])
async def test_ends_and_flat_amounts_of_tiers_are_whole_and_within_bounds(
    raw: Raw, value: float
) -> None:
    for tier in ((value, 1, 0, 0), (0, 1, 0, value)):
        assert await quoted(raw, tiered(GRADUATED, tier), 1) == "bad_rate"
        # of a tier that is not come to, too
        assert await quoted(raw, tiered(GRADUATED, (5, 1, 0, 0), tier), 1) == "bad_rate"


async def test_ends_and_flat_amounts_of_tiers_go_up_to_the_bound(raw: Raw) -> None:
    assert await quoted(raw, tiered(GRADUATED, (MOST, 1, 0, 0)), 1) == 1
    assert await quoted(raw, tiered(GRADUATED, (0, 0, 0, MOST)), 1) == MOST
    assert await quoted(raw, tiered(FLAT, (0, 0, 0, MOST)), 1) == MOST


@pytest.mark.parametrize(
    "row",
    [
        tiered(5, (0, 1, 0, 0)),
        tiered(6, (0, 1, 0, 0)),
        tiered(GRADUATED),
        tiered(GRADUATED, (0, 1, 0, 0), kind=0),
        tiered(GRADUATED, (0, 1, 0, 0), kind=7),
        tiered(GRADUATED, (0, 1, 0, 0), n_tiers=2),
        tiered(GRADUATED, (0, 1, 0, 0), n_tiers=0),
        tiered(GRADUATED, (9, 1, 0, 0), (0, 1, 0, 0))[:-1],
        tiered(GRADUATED, (0, 1, 0, 0))[:-1],
        tiered(GRADUATED, (0, 1, 0, 0)) + b"r",
        b"\0" * 17,
        b"",
    ],
)
async def test_a_row_is_of_a_known_shape_and_whole(raw: Raw, row: bytes) -> None:
    assert await quoted(raw, row, 1) == "unknown_shape"
    assert await quoted(raw, END + row, 0, 1) == "unknown_shape"


async def test_a_tiered_row_is_found_among_many_whatever_their_bytes(raw: Raw) -> None:
    row = END + ROW.pack(2, 0, 1, 0) * 53
    assert len(row) == 19 * 54  # one byte more each than rows without tiers
    assert await rated(raw, row, (1,) * 54) == [54]


async def test_a_quantity_is_refused_before_the_row_that_is_none(raw: Raw) -> None:
    assert await rated(raw, bytes(17), (-1,)) == ["bad_quantity"]
    assert await rated(raw, bytes(17), (1,)) == ["unknown_shape"]


@pytest.mark.parametrize("kind", range(1, 7))
async def test_every_kind_of_period_is_known(raw: Raw, kind: int) -> None:
    assert await quoted(raw, tiered(GRADUATED, (0, 1, 0, 0), kind=kind), 4) == 4


async def test_a_price_whose_rows_take_19_bytes_a_unit_has_tiers_all_the_same(raw: Raw) -> None:
    price = tiered(GRADUATED, (0, 1, 0, 0)) + rows((1, 0)) * 53
    used = vector(5, *[0] * 53)
    assert len(price) == 19 * 54
    assert (await raw("reserve", estimate=used, floor=used, price_rows=price))[:2] == ["held", 5]
    assert (await raw("settle", used=used, price_rows=price))[:2] == ["settled", 5]
