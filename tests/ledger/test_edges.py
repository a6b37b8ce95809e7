"""Bounds of the scripts' arguments and numbers, each from both sides: the last value that is taken,
the first that is refused, and that a refusal wrote nothing."""

import struct
from typing import Any

import pytest
import redis.asyncio

from tests.ledger.raw import HEADS, NAMES, Raw, limit, payer, rows, vector

MOST = 9e15
WITHOUT_ID = ("quote", "afford", "ack", "allowance", "sweep", "signals")
NO_AMOUNTS = (float("nan"), -1.0, 0.5, MOST + 2)
DOUBLES = [
    (verb, name)
    for verb, (form, names) in HEADS.items()
    for letter, name in zip(form[1:], names.split(), strict=True)
    if letter == "d"
]


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Raw:
    return await Raw(valkey).open()


async def refused(raw: Raw, verb: str, rid: str = "r1", /, **changed: Any) -> list[Any]:
    """The reply of a call that must write nothing."""
    before = await raw.dump()
    reply = await raw(verb, rid, **changed)
    assert await raw.dump() == before, f"{reply} wrote something"
    return reply


# Arguments


@pytest.mark.parametrize(("verb", "name"), DOUBLES)
async def test_a_number_of_a_head_is_whole_and_within_bounds(
    raw: Raw, verb: str, name: str
) -> None:
    for value in NO_AMOUNTS:
        assert await refused(raw, verb, **{name: value}) == ["bad_arguments"]
    if name != "now":
        assert (await raw(verb, **{name: MOST}))[0] != "bad_arguments"


@pytest.mark.parametrize("verb", ["grant", "adjust"])
async def test_an_amount_is_whole_and_within_bounds(raw: Raw, verb: str) -> None:
    for value in (*NO_AMOUNTS, 0.0):
        assert await refused(raw, verb, amount=value) == ["bad_arguments"]
    assert (await raw(verb, id="g2", amount=1))[0] != "bad_arguments"
    assert (await raw(verb, id="g3", amount=MOST))[0] != "bad_arguments"
    for name in ("effective_at", "expires_at"):
        if verb == "grant":
            assert await refused(raw, verb, **{name: 0.5}) == ["bad_arguments"]


@pytest.mark.parametrize("verb", [verb for verb in HEADS if verb not in WITHOUT_ID])
async def test_an_id_has_1_to_200_bytes(raw: Raw, verb: str) -> None:
    assert await refused(raw, verb, id="") == ["bad_arguments"]
    assert await refused(raw, verb, id="i" * 201) == ["bad_arguments"]
    for length in (1, 200):
        assert (await raw(verb, id="i" * length, rev=1 + length))[0] != "bad_arguments"


@pytest.mark.parametrize(
    ("verb", "bad", "good"),
    [
        ("reserve", {"ttl": 0}, {"ttl": 1}),
        ("reserve", {"facts": b"", "ids": 13}, {"facts": b"", "ids": 12}),
        (
            "reserve",
            {"cost_rows": Raw.ROWS, "facts": b"", "ids": 13},
            {"cost_rows": Raw.ROWS, "facts": b"", "ids": 12},
        ),
        ("reserve", {"limits": limit()[:-1]}, {"limits": limit()}),
        ("reserve", {"limits": limit() + b"l"}, {"limits": limit() + limit(0, 2, 2)}),
        ("reserve", {"cost_rows": Raw.ROWS[:18]}, {"cost_rows": Raw.ROWS}),
        ("reserve", {"cost_rows": Raw.ROWS + b"c"}, {"cost_rows": b""}),
        ("extend", {"number": 0}, {"number": 1}),
        ("extend", {"ttl": 0}, {"ttl": 1}),
        ("extend", {"estimate": vector(1)}, {"estimate": vector(1, 0)}),
        ("extend", {"floor": vector(1)}, {"floor": vector(1, 0)}),
        ("extend", {"floor": vector(1, 0, 0)}, {"floor": vector(1, 0)}),
        ("settle", {"used": vector(1, 0)[:-1]}, {"used": vector(1, 0)}),
        ("settle", {"cost_rows": Raw.ROWS[:18]}, {"cost_rows": Raw.ROWS}),
        ("quote", {"estimate": vector(1, 0)[:-1], "n": 2}, {"estimate": vector(1, 0)}),
        ("quote", {"limits": limit()[:-1]}, {"limits": limit()}),
        ("afford", {"estimate": vector(1, 0)[:-1], "n": 2}, {"estimate": vector(1, 0)}),
        ("afford", {"step": vector(1)}, {"step": vector(1, 0)}),
        ("grant", {"category": 0}, {"category": 1}),
        ("grant", {"category": 5}, {"category": 4}),
        ("adjust", {"debit": 2}, {"debit": 1}),
        ("allowance", {"kind": 0}, {"kind": 1}),
        ("allowance", {"kind": 7}, {"kind": 6}),
        ("allowance", {"category": 0}, {"category": 1}),
        ("allowance", {"category": 5}, {"category": 4}),
        ("allowance", {"day": 32}, {"day": 31}),
        ("allowance", {"amount": 0.5}, {"amount": 1}),
        ("allowance", {"rollover": -1}, {"rollover": 1}),
        ("void", {"no": 0}, {"no": 1}),
        ("void", {"no": 0.5}, {"no": 1}),
        ("refund", {"amount": 0}, {"amount": 1}),
        ("refund", {"charged": 41}, {"charged": 39}),
        ("refund", {"event": 0}, {"charged": 40}),
        ("refund", {"event_name": b""}, {"event_name": b"r"}),
        ("refund", {"paid": payer()[:-1]}, {"paid": payer() + payer(2)}),
        ("refund", {"paid": payer(category=5)}, {"paid": payer(category=4)}),
        ("refund", {"paid": payer(1.5)}, {"paid": payer(0)}),
        ("refund", {"paid": payer() + payer(0, 0) * 65}, {"paid": payer() + payer(0, 0) * 64}),
        ("account", {"status": 3, "rev": 2}, {"status": 2, "rev": 2}),
        ("account", {"day": 0, "rev": 2}, {"day": 1, "rev": 2}),
        ("account", {"day": 32, "rev": 2}, {"day": 31, "rev": 2}),
        ("account", {"bump": 2, "rev": 2}, {"bump": 1, "rev": 0}),
    ],
)
async def test_what_does_not_fit_together_is_refused(
    raw: Raw, verb: str, bad: dict[str, Any], good: dict[str, Any]
) -> None:
    if verb == "extend":
        await raw("reserve")
    assert await refused(raw, verb, "r1", **bad) == ["bad_arguments"]
    answer = (await raw(verb, "r1", **good))[0]
    assert answer in (
        "held", "extended", "settled", "allow", "granted", "adjusted", "updated",
        "voided", "refunded", "affordable",
    )  # fmt: skip


async def test_a_price_has_up_to_255_units(raw: Raw) -> None:
    many = [(1, 0)] * 256
    used = vector(*[1.0] * 256)
    assert await refused(raw, "settle", used=used, price_rows=rows(*many)) == ["bad_arguments"]
    settled = await raw("settle", used=used[:-8], price_rows=rows(*many[:-1]))
    assert settled[:3] == ["settled", 255, 745]


# Numbers


@pytest.mark.parametrize(
    ("quantities", "rates", "charge"),
    [
        ((0, 5), ((1, 0), (2, 0)), 10),
        ((1e12, 0), ((1, 0), (2, 0)), 10**12),
        ((1e12 + 1, 0), ((1, 0), (2, 0)), "bad_quantity"),
        ((1.5, 0), ((1, 0), (2, 0)), "bad_quantity"),
        ((0.5, 0), ((1, 0), (2, 0)), "bad_quantity"),
        ((-1, 0), ((1, 0), (2, 0)), "bad_quantity"),
        ((float("nan"), 0), ((1, 0), (2, 0)), "bad_quantity"),
        ((0, 0), ((0.5, 0), (2, 0)), 0),  # what is not used is not rated
        ((1, 0), ((1e12, 999), (2, 0)), 10**12 + 1),
        ((1, 0), ((1e12 + 1, 0), (2, 0)), "bad_rate"),
        ((1, 0), ((-1, 0), (2, 0)), "bad_rate"),
        ((1, 0), ((-0.5, 0), (2, 0)), "bad_rate"),
        ((1, 0), ((0.5, 0), (2, 0)), "bad_rate"),
        ((1, 0), ((0, 0), (2, 0)), 0),
        ((1, 0), ((1, 1000), (2, 0)), "bad_rate"),
        ((1, 0), ((1, 999.5), (2, 0)), "bad_rate"),
        ((1, 0), ((1, -1), (2, 0)), "bad_rate"),
        ((1, 0), ((1, float("nan")), (2, 0)), "bad_rate"),
        ((9000, 0), ((1e12, 0), (2, 0)), 9 * 10**15),
        ((9000, 1), ((1e12, 0), (1, 0)), "too_large"),
        ((9000, 1), ((1e12, 0), (0, 1)), "too_large"),
        ((9001, 0), ((1e12, 0), (2, 0)), "too_large"),
        ((1e12, 1e12), ((0, 999), (0, 999)), 2 * 999 * 10**9),
        ((1, 1), ((0, 500), (0, 500)), 1),
        ((1, 1), ((0, 500), (0, 501)), 2),
        ((3, 0), ((0, 333), (0, 0)), 1),
    ],
)
async def test_what_a_quantity_costs_or_that_it_cannot_be_rated(
    raw: Raw, quantities: tuple[float, float], rates: Any, charge: int | str
) -> None:
    asked = {"estimate": vector(*quantities), "price_rows": rows(*rates)}
    reply = await refused(raw, "quote", **asked)
    assert reply[0 if isinstance(charge, str) else 1] == charge
    if isinstance(charge, str):
        assert await refused(raw, "settle", used=asked["estimate"], price_rows=rows(*rates)) == [
            charge
        ]


async def test_pico_credits_alone_may_not_pass_the_bound_of_a_number(raw: Raw) -> None:
    priced = rows(*[(0, 999)] * 10)
    most = [1e12] * 9 + [9_009_009_009]
    reply = await raw("quote", estimate=vector(*most), price_rows=priced)
    assert reply[1] == -(-999 * (9 * 10**12 + 9_009_009_009) // 1000)
    exact = rows(*[(0, 900)] * 10)
    assert (await raw("quote", estimate=vector(*[1e12] * 10), price_rows=exact))[1] == 9 * 10**12
    most[-1] += 1  # 9,000,000,000,000,…,990 of 9e15 pico-credits; one more unit is beyond
    reply = await raw("quote", estimate=vector(*most), price_rows=priced)
    assert reply == ["too_large"]


@pytest.mark.parametrize("size", [-1, 1])
async def test_rows_and_vector_are_of_the_same_units(raw: Raw, size: int) -> None:
    estimate = vector(*[1] * (2 + size))
    assert await refused(raw, "quote", estimate=estimate) == ["unknown_shape"]
    assert await refused(raw, "settle", used=estimate) == ["unknown_shape"]


async def test_a_row_of_another_shape_is_refused_even_when_unused(raw: Raw) -> None:
    shaped = rows((1, 0)) + struct.pack("<BBdd", 2, 1, 1, 0)
    assert await refused(raw, "quote", estimate=vector(1, 0), price_rows=shaped) == [
        "unknown_shape"
    ]


async def test_a_cost_that_cannot_be_rated_stops_a_settle(raw: Raw) -> None:
    wrong = rows((1, 1000), (1, 0))
    assert await refused(raw, "settle", cost_rows=wrong) == ["bad_rate"]


async def test_lifetime_sums_go_up_to_the_bound(valkey: redis.asyncio.Redis) -> None:
    raw = await Raw(valkey).open(MOST - 5)
    assert await refused(raw, "grant", id="g2", amount=6) == ["total_too_large"]
    assert (await raw("grant", id="g2", amount=5))[0] == "granted"
    dear = rows((1e12, 0), (1, 0))
    assert (await raw("settle", "r1", used=vector(8999, 1e12), price_rows=dear))[0] == "settled"
    assert await refused(raw, "settle", "r2", used=vector(0, 1), price_rows=dear) == [
        "total_too_large"
    ]
    assert (await raw.header())["settled"] == MOST


async def test_an_overdraft_goes_up_to_the_bound(valkey: redis.asyncio.Redis) -> None:
    raw = await Raw(valkey).open(0)
    assert (await raw("adjust", id="a1", debit=1, amount=MOST))[0] == "adjusted"
    assert await refused(raw, "settle", used=vector(1, 0)) == ["total_too_large"]
    assert await refused(raw, "adjust", id="a2", debit=1, amount=1) == ["total_too_large"]
    assert (await raw("adjust", id="a3", amount=MOST))[:2] == ["adjusted", 0]
    assert (await raw("adjust", id="a4", amount=MOST))[:2] == ["adjusted", MOST]
    assert await refused(raw, "adjust", id="a5", amount=1) == ["total_too_large"]


async def test_an_expiry_too_ends_at_the_bounds(valkey: redis.asyncio.Redis) -> None:
    dear = rows((1e12, 0), (1, 0))
    raw = await Raw(valkey).open(0, credit_limit=MOST)
    for rid in ("r1", "r2"):
        held = await raw(
            "reserve", rid, estimate=vector(0, 0), floor=vector(9000 if rid == "r1" else 0, 1),
            price_rows=dear, ttl=1,
        )  # fmt: skip
        assert held[0] == "held"
    raw.now += 1
    # 9e15 and one nano-credit cannot be rated: the hold is charged, which is nothing
    assert (await raw("expire", "r1"))[:3] == ["expired", 0, 0]
    assert (await raw("settle", "r3", used=vector(9000, 0), price_rows=dear))[0] == "settled"
    assert await refused(raw, "expire", "r2") == ["total_too_large"]


@pytest.mark.parametrize(("granted", "owed"), [(MOST, 0), (0, MOST)])
async def test_an_expiry_minds_each_of_the_bounds(
    valkey: redis.asyncio.Redis, granted: float, owed: float
) -> None:
    """What was ever settled is at its bound, or what is owed; the other is far from it."""
    dear = rows((1e12, 0), (1, 0))
    raw = await Raw(valkey).open(granted, credit_limit=MOST)
    for rid, units in (("r1", 1), ("r2", 0)):
        await raw("reserve", rid, estimate=vector(0, 0), floor=vector(0, units), ttl=1)
    if owed:
        await raw("adjust", id="a1", debit=1, amount=owed)
    else:
        await raw("settle", "r3", used=vector(9000, 0), price_rows=dear)
    raw.now += 1
    assert await refused(raw, "expire", "r1") == ["total_too_large"]
    assert (await raw("expire", "r2"))[0] == "expired"


# The shard


@pytest.mark.parametrize("verb", [verb for verb in HEADS if verb != "ack"])
async def test_a_shard_that_has_less_than_the_caller_knows_went_back(raw: Raw, verb: str) -> None:
    await raw("reserve")
    assert await refused(raw, verb, epoch=1, count=3) == ["went_back"]
    assert await refused(raw, verb, epoch=2, count=0) == ["went_back"]
    assert (await raw(verb, "r1", id="x2", epoch=1, count=2, rev=2))[0] != "went_back"


@pytest.mark.parametrize("verb", [verb for verb in HEADS if verb != "ack"])
async def test_an_older_epoch_may_have_gone_further(raw: Raw, verb: str) -> None:
    assert (await raw(verb, epoch=0, count=1000, rev=2))[0] != "went_back"


@pytest.mark.parametrize("verb", [verb for verb in HEADS if verb != "ack"])
async def test_an_empty_server_went_back_for_who_has_seen_an_entry(
    verb: str, valkey: redis.asyncio.Redis
) -> None:
    raw = Raw(valkey)
    assert await refused(raw, verb, epoch=0, count=1) == ["went_back"]
    words = {"account": "updated", "note": "noted"}
    assert (await raw(verb))[0] == words.get(verb, "unknown_account")


async def test_the_first_account_makes_the_shard(valkey: redis.asyncio.Redis) -> None:
    raw = Raw(valkey)
    assert await raw("account", rev=4, limit=9, facts=b"made") == ["updated", 4, 0, 1, 0]
    assert await raw.shard() == [1, 0, 0, 1, 0, -1, 0]
    assert await raw.header() == {
        "layout": 1, "status": 0, "n_grants": 0, "n_counters": 0, "n_periods": 0,
        "n_allowances": 0, "day": 1, "n_signals": 0, "rev": 4, "credit_limit": 9, "overdraft": 0,
        "held": 0, "held_credit": 0, "open": 0, "granted": 0, "settled": 0,
        "expired": 0, "voided": 0, "adjusted": 0, "next_no": 1,
        "sweep_at": 9e15, "growth_wanted": 0,
    }  # fmt: skip
    assert await valkey.smembers(NAMES["customers"].decode()) == {b"r1"}  # the id that was given
    event = ["account", "account:r1:4", raw.now, 0, 0, False, 0, [], []]
    assert await raw.events() == [("1-0", event, b"made")]


async def test_every_event_moves_the_shards_seq_by_one(raw: Raw) -> None:
    for seq, verb in enumerate(("grant", "adjust", "settle", "account"), 2):
        reply = await raw(verb, id=f"o{seq}", rev=2)
        assert (await raw.shard())[3:5] == [1, seq]
        assert seq in reply


async def test_an_acknowledgement_is_of_what_was_written(raw: Raw) -> None:
    assert await refused(raw, "ack", epoch=1, seq=2) == ["not_written", 1, 1]
    assert await refused(raw, "ack", epoch=2, seq=0) == ["not_written", 1, 1]
    assert await raw("ack", epoch=0, seq=50) == ["acked", 0, 50]
    assert (await raw.shard())[5:] == [50, 0]
    assert await raw("ack", epoch=1, seq=0) == ["acked", 1, 0]
    assert [entry for entry, _, _ in await raw.events()] == ["1-1"]
    assert await refused(raw, "ack", epoch=0, seq=51) == ["acked", 1, 0]
    assert await refused(raw, "ack", epoch=1, seq=0) == ["acked", 1, 0]
    assert await raw("ack", epoch=1, seq=1) == ["acked", 1, 1]
    assert (await raw.shard())[3:] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("backlog", "word"), [(0, "held"), (1, "outbox_full"), (2, "outbox_full"), (3, "held")]
)
async def test_a_backlog_is_what_the_store_has_not_acknowledged(
    raw: Raw, backlog: int, word: str
) -> None:
    reply = await raw("reserve", backlog=backlog)
    assert reply[0] == word
    if word == "outbox_full":
        assert reply[1] == 2
    await raw("ack", epoch=1, seq=0)
    reply = await raw("reserve", "r2", backlog=backlog)
    assert reply[0] == ("outbox_full" if backlog == 1 else "held")
    if backlog == 1:
        assert reply[1] == 1


async def test_what_was_acknowledged_of_an_older_epoch_counts_for_nothing(raw: Raw) -> None:
    await raw("ack", epoch=0, seq=1)
    assert await raw("reserve", backlog=2) == ["outbox_full", 2]


# The clock


async def test_without_a_clock_given_the_servers_counts(raw: Raw, valkey: Any) -> None:
    """To the millisecond: near the end of a second, where a wrong divisor shows."""
    micros = 0
    while micros < 960_000:
        _, micros = await valkey.time()
    seconds, micros = await valkey.time()
    before = seconds * 1000 + micros // 1000
    reply = await raw("reserve", now=0)
    seconds, micros = await valkey.time()
    assert before <= reply[3] <= seconds * 1000 + micros // 1000
    assert reply[4] == reply[3] + 60_000


async def test_a_millisecond_of_1970_is_a_clock_given(raw: Raw) -> None:
    assert (await raw("reserve", now=1, estimate=vector(0, 0)))[3] == 1
