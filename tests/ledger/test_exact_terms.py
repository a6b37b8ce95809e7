"""Every number of a reply, an event and a record after what operators and time do: void, refund,
allowance, sweep, signals. As test_exact.py, no two alike."""

import struct
from typing import Any

import msgpack
import pytest
import redis.asyncio

from tests.ledger.raw import NAMES, Raw, payer, vector

MONTH = (1767225600000, 1769904000000)
"""January 2026."""


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Raw:
    return await Raw(valkey).open()


async def did(raw: Raw, op_id: str) -> list[Any]:
    """What `ops` says of an operation."""
    values: list[Any] = msgpack.unpackb(await raw.client.hget(NAMES["ops"], op_id), raw=True)
    return values


async def test_an_extend_that_meets_an_expiry_writes_its_entry(raw: Raw) -> None:
    await raw("grant", id="g2", amount=33, expires_at=raw.now + 5, priority=200)
    await raw("reserve")
    raw.now += 5
    assert await raw("extend", estimate=vector(120, 0)) == [
        "extended",
        120,
        880,
        raw.now + 60_000,
        1,
    ]
    assert (await raw.shard())[3:5] == [1, 3]  # no record without the entry, no entry without it
    entry, stamp, facts = (await raw.events())[-1]
    assert (entry, stamp) == (
        "1-3",
        ["expire_grant", "expire_grant:acme:2:1-3", raw.now, 33, 0, False, 1000, [2, 33], []],
    )
    assert msgpack.unpackb(facts) == {"customer_id": "acme", "expired_at_ms": raw.now}
    header = await raw.header()
    assert (header["expired"], header["held"], header["sweep_at"]) == (33, 120, 9e15)


@pytest.mark.parametrize("verb", ["settle", "release", "expire"])
async def test_what_time_did_before_an_ending_is_told_before_it(raw: Raw, verb: str) -> None:
    await raw("grant", id="g2", amount=33, expires_at=raw.now + 5, priority=200)
    await raw("reserve", ttl=5)
    raw.now += 5
    await raw(verb)
    kinds = [stamp[0] for _, stamp, _ in await raw.events()]
    assert kinds == ["account", "grant", "grant", "expire_grant", verb]


async def test_a_void_says_all_it_did_and_again(raw: Raw) -> None:
    await raw("grant", id="g2", amount=70, priority=1)
    await raw("reserve", estimate=vector(11, 0))
    raw.now += 3
    reply = await raw("void", id="v1", no=2, facts=b"why")
    assert reply == ["voided", 59, 11, 1000, 1, 3, 0]
    assert (await raw.events())[-1] == (
        "1-3", ["void", "v1", raw.now, 59, 0, False, 1000, [2, 59], []], b"why",
    )  # fmt: skip
    assert (await raw.grants())[0][4:9] == [2, 11, 11, 0, raw.now]
    assert (await raw.header())["voided"] == 59
    assert await did(raw, "v1") == [
        b"void", struct.pack("<d", 2), 59, raw.now, 1, 3, b"why",
    ]  # fmt: skip
    assert await raw("void", id="v1", no=2) == ["voided", 59, 0, 1000, 1, 3, 1]
    assert await raw("void", id="v1", no=1) == ["exists_with_different_parameters"]
    assert await raw("void", id="v2", no=2) == ["unknown_grant"]
    assert await raw("void", id="v2", no=3) == ["unknown_grant"]


async def test_a_refund_says_all_it_did_and_again(raw: Raw) -> None:
    await raw("settle")
    asked = {"amount": 15, "facts": b"why"}
    raw.now += 3
    assert await raw("refund", id="f1", **asked) == ["refunded", 25, 975, 1, 3, 0]
    assert (await raw.events())[-1] == (
        "1-3", ["adjust", "f1", raw.now, 15, 0, False, 975, [1, 15], []], b"why",
    )  # fmt: skip
    assert (await raw.header())["adjusted"] == 15
    packed = struct.pack("<d", 15) + b"r1:settled"
    assert await did(raw, "f1") == [b"refund", packed, 0, raw.now, 1, 3, b"why"]
    assert (await did(raw, "refunded:r1:settled"))[2] == 15
    assert await raw("refund", id="f1", **asked) == ["refunded", 25, 975, 1, 3, 1]
    assert await raw("refund", id="f1", amount=14) == ["exists_with_different_parameters"]
    assert await raw("refund", id="g1", amount=14) == ["exists_with_different_parameters"]
    assert await raw("refund", id="f2", amount=26) == ["more_than_charged", 25]
    assert await raw("refund", id="f2", amount=25) == ["refunded", 0, 1000, 1, 4, 0]
    assert await raw("refund", id="f3", amount=1) == ["more_than_charged", 0]
    less = {"charged": 10, "facts": b"why"}  # a late settle has given back since
    assert await raw("refund", id="f1", amount=15, **less) == ["refunded", 0, 1000, 1, 3, 1]


@pytest.mark.parametrize("category", [1, 4])
async def test_a_refund_opens_a_grant_that_is_gone_as_it_was(raw: Raw, category: int) -> None:
    ends = raw.now + 1000
    gone = payer(9, 30, category, 50, 4, ends)
    asked = {"charged": 40, "paid": payer(1, 10) + gone}
    assert await raw("refund", id="f1", amount=33, **asked) == ["refunded", 7, 1033, 1, 2, 0]
    assert (await raw.events())[-1][1][7] == [9, 30, 1, 3]
    assert (await raw.grants())[0] == [category, 50, 0, 4, 9, 30, 0, 0, ends, raw.now]
    header = await raw.header()
    assert (header["next_no"], header["sweep_at"]) == (2, ends)


async def test_a_refund_to_nobody_repays_the_overdraft_and_is_a_grant_burned_last(
    raw: Raw,
) -> None:
    await raw("settle", used=vector(1004, 0))
    ended, unknown = payer(8, 5, 1, 1, 0, raw.now), payer(9, 6, 0)
    asked = {"charged": 15, "paid": payer(0, 4) + ended + unknown}
    assert await raw("refund", id="f1", amount=15, **asked) == ["refunded", 0, 11, 1, 3, 0]
    assert (await raw.events())[-1][1][7] == [0, 4, 2, 11]
    assert (await raw.grants())[-1] == [4, 255, 0, 0, 2, 11, 0, 0, 0, raw.now]


async def test_what_is_credited_to_be_burned_last_joins_one_grant(raw: Raw) -> None:
    await raw("adjust", id="a1", amount=11, priority=255)
    await raw("adjust", id="a2", amount=1, priority=255)
    asked = {"charged": 6, "paid": payer(9, 6, 0)}
    assert await raw("refund", id="f1", amount=6, **asked) == ["refunded", 0, 1018, 1, 4, 0]
    assert [stamp[7] for _, stamp, _ in (await raw.events())[-3:]] == [[2, 11], [2, 1], [2, 6]]
    assert (await raw.grants())[1:] == [[4, 255, 0, 0, 2, 18, 0, 0, 0, raw.now]]
    assert (await raw.header())["next_no"] == 3


async def test_what_joins_repays_the_overdraft_first(raw: Raw) -> None:
    await raw("adjust", id="a1", amount=11, priority=255)
    await raw("settle", used=vector(1014, 0))
    assert await raw("adjust", id="a2", amount=7, priority=255) == ["adjusted", 4, 1, 4, 0]
    assert (await raw.events())[-1][1][7] == [0, 3, 3, 4]  # the used-up one was dropped


@pytest.mark.parametrize(
    "other",
    [
        {"category": 3, "priority": 255},
        {"category": 4, "priority": 254},
        {"category": 4, "priority": 255, "bits": 1},
        {"category": 4, "priority": 255, "effective_at": 1},
        {"category": 4, "priority": 255, "expires_at": 1 << 50},
    ],
)
async def test_credit_joins_no_grant_of_other_terms(raw: Raw, other: dict[str, int]) -> None:
    await raw("grant", id="g2", amount=5, **other)
    await raw("adjust", id="a1", amount=11, priority=255)
    assert (await raw.events())[-1][1][7] == [3, 11]


async def test_credit_of_another_priority_joins_nothing(raw: Raw) -> None:
    await raw("adjust", id="a1", amount=11, priority=255)
    await raw("adjust", id="a2", amount=5, priority=254)
    await raw("adjust", id="a3", amount=6, priority=254)
    assert sorted(grant[5] for grant in await raw.grants()) == [5, 6, 11, 1000]


async def test_a_full_wallet_has_room_for_what_joins(raw: Raw) -> None:
    await raw("adjust", id="a1", amount=11, priority=255)
    for number in range(62):
        await raw("grant", id=f"more{number}", amount=1)
    assert await raw("adjust", id="a2", amount=1, priority=254) == ["too_many_grants"]
    assert (await raw("adjust", id="a3", amount=1, priority=255))[0] == "adjusted"
    assert len(await raw.grants()) == 64


async def test_a_release_takes_its_hold_off_every_grant_and_the_credit_limit(raw: Raw) -> None:
    await raw("account", rev=2, limit=100)
    await raw("grant", id="g2", amount=11)
    await raw("grant", id="g3", amount=13)
    await raw("reserve", estimate=vector(1031, 0), rev=2)
    assert [grant[6] for grant in await raw.grants()] == [1000, 11, 13]
    assert (await raw.header())["held_credit"] == 7
    assert (await raw("release"))[0] == "released"
    assert [grant[6] for grant in await raw.grants()] == [0, 0, 0]
    assert (await raw.header())["held_credit"] == 0


async def test_a_nano_that_nobody_paid_for_is_refunded_too(raw: Raw) -> None:
    asked = {"charged": 1, "paid": payer(9, 1, 0)}
    assert await raw("refund", id="f1", amount=1, **asked) == ["refunded", 0, 1001, 1, 2, 0]
    assert (await raw.events())[-1][1][7] == [2, 1]


async def test_an_allowance_says_all_it_did_and_again(raw: Raw) -> None:
    terms = {"category": 3, "priority": 9, "day": 0, "bits": 0, "amount": 50, "rollover": 20}
    assert await raw("allowance", **terms, facts=b"why") == ["updated", 1050, 1, 3]
    set_, grant = (await raw.events())[-2:]
    assert set_ == (
        "1-2",
        ["allowance", "allowance:acme:77:set:1-2", raw.now, 0, 0, False, 1000, [], []],
        b"why",
    )
    assert grant[1] == [
        "grant", f"allowance:acme:77:{MONTH[0]}", raw.now, 50, 0, False, 1050, [2, 50], [],
    ]  # fmt: skip
    assert msgpack.unpackb(grant[2]) == {
        "customer_id": "acme", "allowance_id": 77, "period_start_ms": MONTH[0],
        "period_end_ms": MONTH[1], "rolled_over_nano": 0,
    }  # fmt: skip
    assert (await raw.grants())[0] == [3, 9, 0, 0, 2, 50, 0, 0, MONTH[1], raw.now]
    assert await allowance(raw) == [77, 5, 3, 9, 0, 0, 50, 20, *MONTH, 2, 0]
    header = await raw.header()
    assert (header["n_allowances"], header["granted"], header["sweep_at"]) == (1, 1050, MONTH[1])
    before = await raw.dump()
    assert await raw("allowance", **terms) == ["unchanged"]
    assert await raw.dump() == before
    for name, value in {
        "kind": 4, "category": 2, "priority": 8, "day": 3, "bits": 1, "amount": 51, "rollover": 19,
    }.items():  # fmt: skip
        terms[name] = value
        assert (await raw("allowance", **terms))[:2] == ["updated", 1050]
        assert await raw("allowance", **terms) == ["unchanged"]
    assert await allowance(raw) == [77, 4, 2, 8, 3, 1, 51, 19, *MONTH, 2, 0]
    assert (await raw("allowance", amount=0))[:2] == ["updated", 1050]
    assert (await raw.header())["n_allowances"] == 0
    assert await raw("allowance", amount=0) == ["unchanged"]


async def allowance(raw: Raw) -> list[float]:
    """The only one of the record, behind the grants."""
    record = await raw.client.get(NAMES["account"])
    return list(struct.unpack_from("<IBBBBIdddddd", record, 120 + 56 * record[2]))


async def test_a_sweep_says_what_was_due_and_when_it_will_be_next(raw: Raw) -> None:
    for number, after in ((2, 5), (3, 9)):
        await raw("grant", id=f"g{number}", amount=number, expires_at=raw.now + after)
    before = await raw.dump()
    assert await raw("sweep") == ["swept", 0, 1005, raw.now + 5, 0, 0]
    raw.now += 4
    assert await raw("sweep") == ["swept", 0, 1005, raw.now + 1, 0, 0]
    assert await raw.dump() == before
    raw.now += 1
    assert await raw("sweep") == ["swept", 1, 1003, raw.now + 4, 1, 4]
    raw.now += 4
    assert await raw("sweep") == ["swept", 1, 1000, 9e15, 1, 5]
    assert (await raw.events())[-1][1][:8] == [
        "expire_grant", "expire_grant:acme:3:1-5", raw.now, 3, 0, False, 1000, [3, 3],
    ]  # fmt: skip


def low(*thresholds: float, flags: int = 0) -> bytes:
    """Rules of a low balance alone."""
    n = len(thresholds)
    return struct.pack(f"<BB9d{n}d", n, flags, *[0] * 9, *thresholds)


async def test_signals_say_what_they_changed_and_again(raw: Raw) -> None:
    assert await raw("signals") == ["unchanged"]
    assert await raw("signals", rules=low(7, 1001)) == ["updated", 1000, 1, 2]
    entry, stamp, facts = (await raw.events())[-1]
    assert (entry, stamp) == (
        "1-2",
        ["signals", "signals:acme:1-2", raw.now, 0, 0, False, 1000, [], [],
         [["low_balance", 1001]]],
    )  # fmt: skip
    assert facts == b"facts"
    before = await raw.dump()
    assert await raw("signals", rules=low(7, 1001)) == ["unchanged"]
    assert await raw.dump() == before
    assert await raw("signals") == ["updated", 1000, 1, 3]
    assert (await raw.header())["n_signals"] == 0


@pytest.mark.parametrize(
    "rules",
    [b"", low()[:-1], low(5)[:-8], low(5) + bytes(8), low(0), low(5, 5), low(6, 5), low(0.5),
     low(5, flags=4), low(*range(1, 10))],
)  # fmt: skip
async def test_rules_that_are_none_are_refused(raw: Raw, rules: bytes) -> None:
    before = await raw.dump()
    assert await raw("signals", rules=rules) == ["bad_arguments"]
    assert await raw.dump() == before
    assert (await raw("signals", rules=low(*range(1, 9), flags=3)))[0] == "updated"
