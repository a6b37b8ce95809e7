"""Void and refund: each once, to the right grants, never more than was charged."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import redis.asyncio

from gateway.ledger.client.errors import LedgerRefusal
from gateway.ledger.codec.operations import GrantTerms
from gateway.ledger.corrections import Refunded
from tests.ledger.bench import Bench

DAY_MS = 86_400_000


@pytest.fixture
def bench(valkey: redis.asyncio.Redis) -> Bench:
    return Bench(valkey)


class Charge:
    """A settled request, ready to be refunded."""

    def __init__(self, bench: Bench, stamp: list[Any]) -> None:
        self.bench = bench
        self.event_id: str = stamp[1]
        self.amount: int = stamp[3]
        self.allocations = tuple(zip(stamp[7][::2], stamp[7][1::2], strict=True))

    async def refund(self, op_id: str, amount: int, **options: Any) -> Refunded:
        return await self.bench.ledger.refund(
            "acme",
            op_id,
            self.event_id,
            amount,
            **{
                "charged_nano": self.amount,
                "allocations": self.allocations,
                "reason": "test",
                **options,
            },
        )


async def charge(bench: Bench, amount: int, rid: str = "r1") -> Charge:
    await bench.held(rid, amount)
    await bench.settle(rid, amount)
    return Charge(bench, (await bench.stamps())[-1])


async def remaining(bench: Bench) -> dict[int, int]:
    return {grant.no: grant.remaining_nano for grant in (await bench.wallet()).grants}


# Void


async def test_void_takes_what_is_left_and_ends_the_grant(bench: Bench) -> None:
    await bench.open(100)
    await bench.ledger.grant("acme", "g2", 50)
    await charge(bench, 30)
    voided = await bench.ledger.void("acme", "v1", 1, reason="fraud")
    assert (voided.voided_nano, voided.held_nano, voided.balance_nano) == (70, 0, 50)
    wallet = await bench.wallet()
    assert (wallet.voided_nano, wallet.balance_nano(bench.now)) == (70, 50)
    stamp = (await bench.stamps())[-1]
    assert (stamp[0], stamp[3], stamp[7]) == ("void", 70, [1, 70])
    assert await bench.differences() == []


async def test_what_is_held_of_a_voided_grant_can_be_spent_and_no_more(bench: Bench) -> None:
    await bench.open(100)
    await bench.held("r1", 40)
    voided = await bench.ledger.void("acme", "v1", 1, reason="fraud")
    assert (voided.voided_nano, voided.held_nano) == (60, 40)
    assert (await bench.denied("r2", 1)).reason == "insufficient_credits"
    assert (await bench.settle("r1", 15)).balance_nano == 0
    wallet = await bench.wallet()
    assert (wallet.settled_nano, wallet.expired_nano, wallet.overdraft_nano) == (15, 25, 0)
    assert await bench.differences() == []


async def test_a_void_happens_once(bench: Bench) -> None:
    await bench.open(100)
    first = await bench.ledger.void("acme", "v1", 1, reason="fraud")
    again = await bench.ledger.void("acme", "v1", 1, reason="fraud")
    assert (again.voided_nano, again.replayed) == (first.voided_nano, True)
    with pytest.raises(LedgerRefusal, match="unknown_grant"):
        await bench.ledger.void("acme", "v2", 1, reason="fraud")
    assert (await bench.wallet()).voided_nano == 100


# Refund


async def test_a_refund_goes_back_to_the_grants_that_paid_the_last_one_first(
    bench: Bench,
) -> None:
    await bench.open(30)
    await bench.ledger.grant("acme", "g2", 100)
    charged = await charge(bench, 50)
    assert charged.allocations == ((1, 30), (2, 20))
    refunded = await charged.refund("f1", 25)
    assert (refunded.left_nano, refunded.balance_nano) == (25, 105)
    assert await remaining(bench) == {1: 5, 2: 100}
    assert (await charged.refund("f2", 25)).left_nano == 0
    assert await remaining(bench) == {1: 30, 2: 100}
    stamp = (await bench.stamps())[-1]
    assert (stamp[0], stamp[1], stamp[3], stamp[7]) == ("adjust", "f2", 25, [1, 25])
    assert (await bench.wallet()).adjusted_nano == 50
    assert await bench.differences() == []


async def fill(bench: Bench, up_to: int, *, each: int = 1) -> None:
    """Open grants until there are so many."""
    for number in range(len(await remaining(bench)), up_to):
        await bench.ledger.grant("acme", f"more{number}", each, priority=200)


async def test_a_full_wallet_has_room_for_a_refund_to_grants_that_are_open(bench: Bench) -> None:
    await bench.open(100)
    charged = await charge(bench, 60)
    await fill(bench, 64)
    await charged.refund("f1", 60)
    assert (await remaining(bench))[1] == 100
    assert len(await remaining(bench)) == 64
    assert await bench.differences() == []


async def test_a_refund_that_opens_more_than_64_grants_writes_nothing(bench: Bench) -> None:
    await bench.open(60)
    charged = await charge(bench, 60)
    await fill(bench, 64)  # the first of them takes the place of the used-up one
    await bench.ledger.grant("acme", "last", 1)
    assert 1 not in await remaining(bench)
    before = await bench.dump()
    for terms in ({}, {1: GrantTerms(1, 100, 0, 0)}):
        with pytest.raises(LedgerRefusal, match="too_many_grants"):
            await charged.refund("f1", 60, terms=terms)
        assert await bench.dump() == before


async def test_a_refund_opens_the_last_grant_that_has_room(bench: Bench) -> None:
    await bench.open(60)
    charged = await charge(bench, 60)
    await fill(bench, 64)  # the first of them takes the place of the used-up one
    assert len(await remaining(bench)) == 63
    await charged.refund("f1", 60, terms={1: GrantTerms(1, 100, 0, 0)})
    assert (await remaining(bench))[1] == 60
    assert len(await remaining(bench)) == 64


async def test_a_refund_drops_used_up_grants_to_have_room(bench: Bench) -> None:
    await bench.open(60)
    await fill(bench, 64)
    charged = await charge(bench, 60)
    assert (await remaining(bench))[1] == 0
    await charged.refund("f1", 60, allocations=((0, 60),))
    assert (await bench.wallet()).grants[-1].remaining_nano == 60
    assert len(await remaining(bench)) == 64
    assert 1 not in await remaining(bench)


async def test_all_refunds_of_an_event_are_the_charge_at_most(bench: Bench) -> None:
    await bench.open(100)
    charged = await charge(bench, 50)
    await charged.refund("f1", 30)
    with pytest.raises(LedgerRefusal, match="more_than_charged"):
        await charged.refund("f2", 21)
    await charged.refund("f3", 20)
    with pytest.raises(LedgerRefusal, match="more_than_charged"):
        await charged.refund("f4", 1)
    assert await remaining(bench) == {1: 100}


async def test_refunds_at_once_are_the_charge_at_most(bench: Bench) -> None:
    await bench.open(100)
    charged = await charge(bench, 50)
    answers = await asyncio.gather(
        *(charged.refund(f"f{number}", 20) for number in range(5)), return_exceptions=True
    )
    assert sum(isinstance(answer, Refunded) for answer in answers) == 2
    assert await remaining(bench) == {1: 90}


async def test_a_refund_happens_once_by_its_operation_id(bench: Bench) -> None:
    await bench.open(100)
    charged = await charge(bench, 50)
    first = await charged.refund("f1", 20)
    assert await charged.refund("f1", 20) == replace(first, replayed=True)
    assert await remaining(bench) == {1: 70}


async def test_what_was_charged_to_the_overdraft_repays_it(bench: Bench) -> None:
    await bench.open(30, credit_limit=50)
    charged = await charge(bench, 70)
    assert charged.allocations == ((1, 30), (0, 40))
    assert (await charged.refund("f1", 50)).balance_nano == 10
    wallet = await bench.wallet()
    assert (wallet.overdraft_nano, await remaining(bench)) == (0, {1: 10})
    assert await bench.differences() == []


async def test_an_overdraft_that_was_repaid_since_becomes_a_grant_of_its_own(
    bench: Bench,
) -> None:
    await bench.open(0, credit_limit=50)
    charged = await charge(bench, 40)
    await bench.ledger.grant("acme", "g1", 45)
    await charged.refund("f1", 40)
    first, last = (await bench.wallet()).grants
    assert (first.remaining_nano, last.remaining_nano) == (5, 40)
    assert (last.category, last.priority, last.expires_at_ms) == ("adjustment", 255, 0)
    assert await bench.differences() == []


async def test_what_an_expired_grant_had_paid_becomes_a_grant_that_never_expires(
    bench: Bench,
) -> None:
    await bench.open(0)
    await bench.ledger.grant("acme", "g1", 100, expires_at_ms=bench.now + DAY_MS)
    charged = await charge(bench, 60)
    bench.now += DAY_MS
    assert (await charged.refund("f1", 60)).balance_nano == 60
    wallet = await bench.wallet()
    assert (wallet.expired_nano, wallet.adjusted_nano) == (40, 60)
    own = wallet.grants[-1]
    assert (own.category, own.remaining_nano, own.expires_at_ms) == ("adjustment", 60, 0)
    assert await bench.differences() == []


async def test_a_grant_that_was_used_up_and_dropped_opens_again(bench: Bench) -> None:
    await bench.open(0)
    ends = bench.now + DAY_MS
    await bench.ledger.grant(
        "acme", "g1", 60, category="promotional", priority=7, expires_at_ms=ends
    )
    charged = await charge(bench, 60)
    await bench.ledger.grant("acme", "g2", 5)
    assert await remaining(bench) == {2: 5}
    await charged.refund("f1", 60, terms={1: GrantTerms(2, 7, 0, ends)})
    first = (await bench.wallet()).grants[0]
    assert (first.no, first.remaining_nano, first.category) == (1, 60, "promotional")
    assert (first.priority, first.expires_at_ms) == (7, ends)
    assert (await bench.wallet()).next_grant_no == 3
    bench.now = ends
    await bench.ledger.sweep("acme")
    assert (await bench.wallet()).expired_nano == 60
    assert await bench.differences() == []


async def test_a_dropped_grant_of_which_nothing_is_known_becomes_one_of_its_own(
    bench: Bench,
) -> None:
    await bench.open(60)
    charged = await charge(bench, 60)
    await bench.ledger.grant("acme", "g2", 5)
    await charged.refund("f1", 60)
    assert [(g.no, g.remaining_nano) for g in (await bench.wallet()).grants] == [(2, 5), (3, 60)]


async def test_a_voided_grant_does_not_open_again(bench: Bench) -> None:
    await bench.open(100)
    charged = await charge(bench, 60)
    await bench.ledger.void("acme", "v1", 1, reason="fraud")
    await charged.refund("f1", 60)
    grants = {g.no: g for g in (await bench.wallet()).grants}
    assert (grants[1].remaining_nano, grants[2].remaining_nano) == (0, 60)
    assert await bench.differences() == []


async def test_what_a_late_settle_gave_back_is_not_given_again(bench: Bench) -> None:
    await bench.open(100)
    await bench.held("r1", 80, floor=60)
    bench.now += 60_000
    await bench.expire("r1")
    expiry = Charge(bench, (await bench.stamps())[-1])
    await bench.settle("r1", 20)
    assert await remaining(bench) == {1: 80}
    await expiry.refund("f1", 20, charged_nano=20)
    assert await remaining(bench) == {1: 100}
    with pytest.raises(LedgerRefusal, match="more_than_charged"):
        await expiry.refund("f2", 1, charged_nano=20)


async def test_a_wrong_list_of_payers_is_refused(bench: Bench) -> None:
    await bench.open(100)
    charged = await charge(bench, 50)
    with pytest.raises(ValueError, match="bad_arguments"):
        await charged.refund("f1", 50, allocations=((1, 49),))
