"""An Idempotency-Key in the ledger: one reservation in all, unless it was released."""

import asyncio
from typing import Any

import pytest
import redis.asyncio

from gateway.domain.limits import Limit
from gateway.domain.reservation import IDEMPOTENCY_TTL_MS, Denied, Hold, IdempotencyKey, Repeated
from gateway.ledger.client.errors import LedgerUnavailable
from tests.ledger.bench import Bench
from tests.ledger.raw import Raw

BODY, OTHER = b"0123456789abcdef", b"0123456789abcdeF"
ONCE = IdempotencyKey("d1", BODY)
KEY = "{cg:0}:i:d1"


@pytest.fixture
async def bench(valkey: redis.asyncio.Redis) -> Bench:
    return await Bench(valkey).open()


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Raw:
    return await Raw(valkey).open()


async def repeated(
    bench: Bench, rid: str = "r2", idempotency: IdempotencyKey = ONCE, **options: Any
) -> Repeated:
    """The answer to a reserve that must write nothing."""
    denied = await bench.denied(rid, idempotency=idempotency, **options)
    assert denied.reason == "repeated"
    assert denied.repeats is not None
    return denied.repeats


async def test_the_record_holds_digest_and_id_for_a_day(bench: Bench) -> None:
    await bench.held("r1", idempotency=ONCE)
    assert await bench.client.get(KEY) == BODY + b"r1"
    assert (
        IDEMPOTENCY_TTL_MS - 5000
        < await bench.client.pttl(KEY)
        <= IDEMPOTENCY_TTL_MS
        == 24 * 3_600_000
    )


async def test_without_one_nothing_is_recorded(bench: Bench) -> None:
    await bench.held("r1")
    assert [key async for key in bench.client.scan_iter("{cg:0}:i:*")] == []


async def test_a_repeat_names_the_earlier_request_while_it_runs_and_after_its_end(
    bench: Bench,
) -> None:
    await bench.held("r1", idempotency=ONCE)
    assert await repeated(bench) == Repeated("r1", True)
    assert await repeated(bench, idempotency=IdempotencyKey("d1", OTHER)) == Repeated("r1", False)
    await bench.settle("r1")
    assert await repeated(bench) == Repeated("r1", True)
    await bench.client.delete("{cg:0}:r:r1")  # the tombstone lasts an hour
    assert await repeated(bench) == Repeated("r1", True)
    assert (await bench.wallet()).settled_nano == 40


async def test_another_key_is_another_request(bench: Bench) -> None:
    await bench.held("r1", idempotency=ONCE)
    await bench.held("r2", idempotency=IdempotencyKey("d2", BODY))
    assert (await bench.wallet()).open_reservations == 2


async def test_the_same_call_again_is_held_not_repeated(bench: Bench) -> None:
    first = await bench.held("r1", idempotency=ONCE)
    assert await bench.held("r1", idempotency=ONCE) == Hold(
        "r1", 100, 900, first.reserved_at_ms, first.deadline_ms
    )


async def test_a_refused_request_leaves_no_record(bench: Bench) -> None:
    denied = await bench.denied("r1", 5000, idempotency=ONCE)
    assert denied.reason == "insufficient_credits"
    await bench.held("r2", idempotency=ONCE)


async def test_a_repeat_is_told_so_before_credit_and_limits_are_looked_at(bench: Bench) -> None:
    await bench.held("r1", 1000, idempotency=ONCE)
    assert (await bench.denied("r2", 1000)).reason == "credit_held"
    assert await repeated(bench, "r2", units=1000) == Repeated("r1", True)


async def test_a_frozen_wallet_and_a_stale_account_come_before_it(bench: Bench) -> None:
    await bench.held("r1", idempotency=ONCE)
    await bench.ledger.bump("acme")
    assert (await bench.denied("r2", idempotency=ONCE)).reason == "stale_account"
    await bench.ledger.account("acme", account_rev=3, frozen=True)
    assert (await bench.denied("r2", idempotency=ONCE)).reason == "wallet_frozen"


async def test_what_was_released_may_be_asked_again(bench: Bench) -> None:
    await bench.held("r1", idempotency=ONCE)
    await bench.release("r1", idempotency="d1")
    assert await bench.client.exists(KEY) == 0
    await bench.held("r2", idempotency=ONCE)
    assert await bench.client.get(KEY) == BODY + b"r2"
    await bench.release("r1", idempotency="d1")  # the journal may deliver it once more
    assert await bench.client.get(KEY) == BODY + b"r2"
    assert await bench.differences() == []


async def test_what_expired_was_charged_and_stays(bench: Bench) -> None:
    hold = await bench.held("r1", idempotency=ONCE, floor=10)
    bench.now = hold.deadline_ms
    await bench.expire("r1")
    await bench.release("r1", idempotency="d1")
    assert await repeated(bench) == Repeated("r1", True)


async def test_a_release_that_overtakes_its_reserve_leaves_neither_hold_nor_record(
    bench: Bench,
) -> None:
    await bench.release("r1", reserved_at_ms=0, idempotency="d1")
    denied = await bench.denied("r1", idempotency=ONCE)
    assert denied.reason == "already_ended"
    await bench.held("r2", idempotency=ONCE)


async def test_a_release_without_a_hold_leaves_the_record_of_another(bench: Bench) -> None:
    await bench.held("r1", idempotency=ONCE)
    await bench.release("r2", reserved_at_ms=0, idempotency="d1")
    assert await bench.client.get(KEY) == BODY + b"r1"


async def test_it_stands_behind_the_records_of_limits(bench: Bench) -> None:
    """One of two records of limits, both, and a release that did not know of both."""
    key = Limit("key", "requests", "day", 10)
    project = Limit("project", "requests", "day", 10)
    for number, limits in enumerate(((key,), (project,), (key, project))):
        once = IdempotencyKey(f"d{number}", BODY)
        await bench.open(0, *limits)
        await bench.held(f"a{number}", idempotency=once)
        assert await repeated(bench, "b", once) == Repeated(f"a{number}", True)
        await bench.open(0)
        await bench.release(f"a{number}", idempotency=once.key)
        assert bench.runner.words[-2:] == ["wrong_scopes", "released"]
        assert await bench.client.exists(f"{{cg:0}}:i:d{number}") == 0
    assert (await bench.wallet()).held_nano == 0
    assert await bench.differences() == []


@pytest.mark.parametrize("verb", ["reserve", "release"])
async def test_an_argument_without_its_key_would_overwrite_another_record(
    raw: Raw, verb: str
) -> None:
    once = BODY if verb == "reserve" else b""
    before = await raw.dump()
    for mask in (0, 1, 2, 3):
        assert await raw(verb, mask=mask, once=once, last_keys=()) == ["bad_arguments"]
        twice = ("once", "once")
        assert await raw(verb, mask=mask, once=once, last_keys=twice) == ["bad_arguments"]
    for wrong in (once + b"x", b"x" * 15):
        assert await raw(verb, once=wrong) == ["bad_arguments"]
    assert await raw.dump() == before
    assert (await raw(verb, once=once))[0] in ("held", "released")


async def test_a_record_of_another_type_fails_before_anything_is_written(bench: Bench) -> None:
    await bench.client.lpush(KEY, "x")
    before = await bench.dump()
    with pytest.raises(Exception, match="WRONGTYPE"):
        await bench.reserve("r1", idempotency=ONCE)
    with pytest.raises(Exception, match="WRONGTYPE"):
        await bench.release("r1", reserved_at_ms=0, idempotency="d1")
    assert await bench.dump() == before


async def test_of_fifty_at_once_one_runs_and_after_its_release_one(bench: Bench) -> None:
    for wave in range(3):
        rids = [f"w{wave}-{n}" for n in range(50)]
        answers = await asyncio.gather(*(bench.reserve(rid, 10, idempotency=ONCE) for rid in rids))
        [hold] = [answer for answer in answers if isinstance(answer, Hold)]
        others = {answer.repeats for answer in answers if isinstance(answer, Denied)}
        assert others == {Repeated(hold.reservation_id, True)}
        if wave == 2:
            await bench.settle(hold.reservation_id, 10)
        else:
            await bench.release(hold.reservation_id, idempotency="d1")
    assert (await bench.wallet()).settled_nano == 10
    assert await bench.differences() == []


async def test_a_shard_that_went_back_tells_nothing_of_repeats(bench: Bench) -> None:
    await bench.held("r1", idempotency=ONCE)
    bench.ledger.seen.note(0, 1, 1000)
    denied = await bench.denied("r2", idempotency=ONCE)
    assert denied.reason == "went_back"
    with pytest.raises(LedgerUnavailable):
        await bench.release("r1", idempotency="d1")
