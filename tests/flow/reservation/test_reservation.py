"""How a run ends, for each way that a request can; how its hold grows; on the real scripts."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from gateway.domain.pricing import compile_prices
from gateway.domain.reservation import Account, Denied, Hold
from gateway.flow.reservation.growth import NEVER
from gateway.flow.reservation.reservation import Reservation
from gateway.ledger.client.errors import LedgerBug, LedgerUnavailable
from gateway.ledger.codec.reservation_records import DueReservation
from tests.flow.desk import Desk
from tests.support.until import until

REPORTED = {"input": 9, "output": 30}


@pytest.fixture
async def desk(valkey: redis.asyncio.Redis, tmp_path: Path) -> AsyncIterator[Desk]:
    opened = await Desk(valkey, tmp_path).open()
    yield opened
    await opened.delivery.drain(5)
    await opened.journal.close()


def saw(run: Reservation, output: int = 30, *, stage: Any = "sent", status: int = 200) -> None:
    """The upstream answered this much, without a report."""
    run.progress.stage, run.progress.status, run.facts.counted_output = stage, status, output


def reported(
    run: Reservation, usage: dict[str, int] = REPORTED, *, final: bool = True, at: int | None = None
) -> None:
    """The provider reported this. at: output counted then; all that is counted now by default"""
    facts = run.facts
    facts.usage, facts.usage_final = usage, final
    facts.input_reported = facts.output_reported = True
    facts.output_reported_at = facts.counted_output if at is None else at


async def idle(run: Reservation) -> None:
    """Wait until no extend is under way."""
    await until(lambda: not run.growth._extending)


async def settled_extend(run: Reservation) -> None:
    """Extend, and wait for the ledger's answer."""
    run.growth.extend()
    await idle(run)


# What the end is


async def test_what_the_upstream_never_heard_is_released(desk: Desk) -> None:
    run = await desk.run()
    run.progress.leave(unsent=False)
    event = await desk.end(run)
    assert (event.kind, event.amount_nano) == ("release", 0)
    assert event.facts["flags"] == ["client_gone"]


async def test_a_send_that_was_cancelled_before_its_first_byte_is_released(desk: Desk) -> None:
    run = await desk.run()
    run.progress.stage = "sent"
    run.progress.leave(unsent=True)
    assert (await desk.end(run)).kind == "release"


async def test_a_broken_answer_that_brought_nothing_is_released(desk: Desk) -> None:
    run = await desk.run()
    saw(run, 0)
    assert (await desk.end(run)).kind == "release"


async def test_a_broken_json_answer_is_released_although_text_was_read(desk: Desk) -> None:
    run = await desk.run(stream=False)
    saw(run, 30)
    assert (await desk.end(run)).kind == "release"


async def test_a_broken_stream_pays_what_flowed(desk: Desk) -> None:
    run = await desk.run()
    saw(run, 30)
    event = await desk.end(run)
    assert (event.kind, dict(event.usage)) == ("settle", {"input": 10, "output": 30})
    assert (event.facts["usage_source"], event.facts["flags"]) == ("counted", [])


async def test_a_broken_answer_that_reported_usage_pays_it(desk: Desk) -> None:
    run = await desk.run()
    saw(run, 0)
    reported(run)
    event = await desk.end(run)
    assert (event.kind, dict(event.usage)) == ("settle", REPORTED)


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_an_error_of_the_upstream_is_released(desk: Desk, status: int) -> None:
    run = await desk.run(stream=False)
    saw(run, 5, stage="complete", status=status)
    event = await desk.end(run)
    assert (event.kind, event.facts["http_status"]) == ("release", status)
    assert event.facts["usage_source"] is None


async def test_an_error_of_the_upstream_that_reports_usage_is_charged(desk: Desk) -> None:
    run = await desk.run(stream=False)
    saw(run, 0, stage="complete", status=500)
    reported(run)
    assert dict((await desk.end(run)).usage) == REPORTED


async def test_an_answer_that_says_it_failed_is_released(desk: Desk) -> None:
    run = await desk.run(stream=False)
    saw(run, 0, stage="complete")
    run.facts.error = True
    assert (await desk.end(run)).kind == "release"


async def test_a_stream_that_ends_in_the_upstream_s_error_pays_what_flowed_and_no_hold(
    desk: Desk,
) -> None:
    run = await desk.run(missing_usage="hold")
    saw(run, 30, stage="complete")
    run.facts.error = True
    event = await desk.end(run)
    assert event.usage["output"] == 30
    assert "usage_missing" not in event.facts["flags"]


@pytest.mark.parametrize(("policy", "output"), [("counted", 30), ("hold", 1000)])
async def test_missing_usage_is_charged_by_policy_and_flagged(
    desk: Desk, policy: str, output: int
) -> None:
    run = await desk.run(missing_usage=policy)
    saw(run, 30, stage="complete")
    event = await desk.end(run)
    assert event.usage["output"] == output
    assert event.facts["flags"] == ["usage_missing"]


@pytest.mark.parametrize("how", ["problem", "sum"])
async def test_absurd_usage_is_replaced_by_the_count_at_most_the_hold(desk: Desk, how: str) -> None:
    run = await desk.run()
    saw(run, 5000, stage="complete")
    if how == "problem":
        run.facts.usage_problem = "completion_tokens is negative"
    else:
        reported(run, {"input": 1, "output": 900_000_000})
    event = await desk.end(run)
    assert event.usage["output"] == 1000, "the hold, not the 5,000 counted"
    assert event.facts["flags"] == ["usage_absurd"]
    assert event.facts["usage_source"] == "estimated"


async def test_reported_usage_beyond_the_hold_is_charged_in_full(desk: Desk) -> None:
    run = await desk.run(stream=False)
    saw(run, 1, stage="complete")
    reported(run, {"input": 1, "output": 3000})
    event = await desk.end(run)
    assert event.usage["output"] == 3000
    assert event.amount_nano > event.estimated_amount_nano


@pytest.mark.parametrize(
    ("policy", "output"),
    [("charge_seen", 30), ("drain", 30), ("charge_input", 0), ("charge_hold", 1000)],
)
@pytest.mark.parametrize("status", [0, 200])
async def test_who_leaves_a_stream_pays_by_the_stream_s_policy_also_before_its_head(
    desk: Desk, policy: str, output: int, status: int
) -> None:
    run = await desk.run(disconnect_stream=policy, disconnect_json="charge_input")
    saw(run, 30 if status else 0, status=status)
    run.progress.leave(unsent=False)
    event = await desk.end(run)
    expected = output if status or policy == "charge_hold" else 0
    assert event.usage.get("output", 0) == expected
    assert (event.kind, event.usage["input"]) == ("settle", 40 if expected == 1000 else 10)


@pytest.mark.parametrize(("policy", "output"), [("charge_input", 0), ("charge_hold", 1000)])
async def test_who_leaves_before_a_json_answer_pays_by_its_policy(
    desk: Desk, policy: str, output: int
) -> None:
    run = await desk.run(stream=False, disconnect_json=policy, disconnect_stream="drain")
    saw(run, 0, status=0)
    assert run.linger_ms == 0, "nothing is drained for"
    run.progress.leave(unsent=False)
    assert (await desk.end(run)).usage.get("output", 0) == output


async def test_draining_in_vain_charges_the_hold_where_missing_usage_does(desk: Desk) -> None:
    run = await desk.run(disconnect_stream="drain", missing_usage="hold")
    saw(run, 30)
    run.progress.leave(unsent=False)
    event = await desk.end(run)
    assert (event.usage["output"], event.facts["usage_source"]) == (1000, "estimated")


@pytest.mark.parametrize("policy", ["charge_seen", "charge_input", "drain"])
async def test_hidden_output_lingers_and_charges_the_hold(desk: Desk, policy: str) -> None:
    run = await desk.run(hidden_output=True, disconnect_stream=policy)
    assert run.linger_ms == run.plan.policy.drain_max_ms
    saw(run, 0)
    run.progress.leave(unsent=False)
    assert (await desk.end(run)).usage["output"] == 1000


async def test_who_leaves_after_the_last_byte_is_charged_like_one_who_stayed(desk: Desk) -> None:
    run = await desk.run(disconnect_stream="charge_hold")
    saw(run, 30, stage="complete")
    reported(run)
    run.progress.leave(unsent=False)
    event = await desk.end(run)
    assert (dict(event.usage), event.facts["flags"]) == (REPORTED, ["client_gone"])


async def test_a_running_report_is_completed_by_what_was_counted_beyond_it(desk: Desk) -> None:
    run = await desk.run()
    saw(run, 30)
    reported(run, {"input": 9, "output": 4}, final=False, at=4)
    run.progress.leave(unsent=False)
    assert dict((await desk.end(run)).usage) == {"input": 9, "output": 30}


async def test_a_cut_stream_is_never_charged_beyond_its_hold(desk: Desk) -> None:
    run = await desk.run(hold_output_tokens=50)
    saw(run, 70, stage="cut")
    event = await desk.end(run)
    assert event.usage["output"] == 50
    assert event.amount_nano <= event.estimated_amount_nano
    assert event.facts["finish_reason"] == "error"
    assert "usage_missing" not in event.facts["flags"]


async def test_a_cut_stream_whose_running_report_is_ahead_is_charged_no_more(desk: Desk) -> None:
    run = await desk.run(hold_output_tokens=50)
    saw(run, 60, stage="cut")
    reported(run, {"input": 9, "output": 40, "reasoning": 30}, final=False)
    event = await desk.end(run)
    assert dict(event.usage) == {"input": 9, "output": 50}  # the desk's reasoning is output
    assert event.amount_nano <= event.estimated_amount_nano


async def test_a_request_ends_once_however_often_it_is_resolved(desk: Desk) -> None:
    run = await desk.run()
    saw(run, 30)
    first = run.resolve()
    run.progress.stage = "complete"
    assert run.resolve() is first
    await desk.end(run)
    assert len(desk.observed) == 1
    assert run not in desk.live


# How the hold grows


async def test_the_hold_grows_before_it_is_used_up(desk: Desk) -> None:
    run = await desk.run(hold_output_tokens=100, extend_at=0.5)
    first_nano = run.held_nano
    run.facts.counted_output = 49
    assert not run.growth.watch()
    assert not run.growth._extending, "there is no need yet"
    run.facts.counted_output = 50
    assert not run.growth.watch()
    await settled_extend(run)
    assert run.estimate.held_output == 200
    assert run.held_nano - first_nano == 100 * 5500 // 1000
    assert run.growth.act_at == 150
    saw(run, 60, stage="complete")
    event = await desk.end(run)
    assert event.estimated_amount_nano == run.held_nano


async def test_the_hold_covers_the_bound_until_an_answer_passes_it(desk: Desk) -> None:
    run = await desk.run(hold_output_tokens=600)
    run.facts.counted_output = 700
    await settled_extend(run)
    assert run.estimate.held_output == 1000
    run.facts.counted_output, run.facts.fewest_output = 1300, 1000
    assert not run.growth.watch(), "many bytes are no proof of many tokens"
    assert not run.growth._extending
    run.facts.fewest_output = 1001
    assert run.growth.watch()
    assert await run.growth.covered()
    assert run.estimate.held_output > 1000, "what passes the request's own maximum is held first"


@pytest.mark.parametrize("policy", ["cut", "finish"])
async def test_an_answer_that_passes_its_maximum_is_cut_where_nobody_can_pay(
    desk: Desk, policy: str
) -> None:
    run = await desk.run(hold_output_tokens=1000, exhausted_stream=policy)
    await drain_wallet(desk, 0)
    run.facts.counted_output = run.facts.fewest_output = 1001
    assert run.growth.watch()
    assert not await run.growth.covered()
    saw(run, 1001, stage="cut")
    event = await desk.end(run)
    assert event.usage["output"] == 1000
    assert event.amount_nano <= event.estimated_amount_nano


async def drain_wallet(desk: Desk, left_output: int) -> None:
    """Spend all but what this many output tokens cost."""
    wallet = (await desk.store.wallets.read(["acme"]))["acme"]
    over = wallet.available_nano(1 << 62) - left_output * 5500 // 1000
    await desk.bank.operator.adjust("acme", f"less-{over}", -over, corrects=None, reason="test")


async def test_a_wallet_that_cannot_pay_a_whole_step_is_used_to_its_end(desk: Desk) -> None:
    run = await desk.run(hold_output_tokens=64, extend_at=0.5, exhausted_stream="cut")
    await drain_wallet(desk, 90)
    cut = False
    while not cut:
        run.facts.counted_output += 1
        cut = run.growth.watch()
        await idle(run)
        assert run.facts.counted_output < 500
    assert 64 + 90 - 2 <= run.estimate.held_output <= 64 + 90
    assert run.facts.counted_output <= run.estimate.held_output + 1
    assert run.progress.flags == ["credit_exhausted"]


async def test_finishing_into_overdraft_is_never_cut(desk: Desk) -> None:
    run = await desk.run(hold_output_tokens=64, exhausted_stream="finish")
    await drain_wallet(desk, 0)
    for counted in range(30, 900, 10):
        run.facts.counted_output = counted
        assert not run.growth.watch()
        await idle(run)
    assert run.progress.flags == ["credit_exhausted"]


async def test_credit_that_comes_in_time_saves_the_stream(desk: Desk) -> None:
    run = await desk.run(hold_output_tokens=64, exhausted_stream="cut")
    await drain_wallet(desk, 0)
    run.facts.counted_output = 64
    while not run.growth.exhausted:
        await settled_extend(run)
    await desk.bank.operator.grant("acme", "top-up", 1_000_000_000)
    await settled_extend(run)  # the next beat's
    assert run.estimate.held_output > 64
    run.facts.counted_output = 70
    assert not run.growth.watch()


async def test_an_unreachable_ledger_does_not_stop_a_stream_nor_is_it_asked_at_each_piece(
    desk: Desk,
) -> None:
    run = await desk.run(hold_output_tokens=64, exhausted_stream="cut")
    desk.wire.down = True
    desk.wire.calls.clear()
    for counted in range(40, 140):
        run.facts.counted_output = counted
        assert not run.growth.watch()
        await asyncio.sleep(0)
    assert desk.wire.calls == ["extend"]
    desk.wire.down = False
    await settled_extend(run)  # the next beat's
    assert run.estimate.held_output > 140
    saw(run, 150, stage="complete")
    assert (await desk.end(run)).usage["output"] == 150


@pytest.mark.parametrize("fault", [LedgerBug("odd"), ValueError("extend: too_large")])
async def test_an_extend_that_fails_for_good_does_not_end_the_request(
    desk: Desk, fault: Exception
) -> None:
    run = await desk.run(hold_output_tokens=64)
    run.facts.counted_output = 50
    desk.wire.faults["extend"] = [fault]
    await settled_extend(run)
    assert run.estimate.held_output == 64, "nothing more is held"
    saw(run, 50, stage="complete")
    assert (await desk.end(run)).usage["output"] == 50


@pytest.mark.parametrize("report", [True, False])
async def test_a_hold_that_expired_under_a_running_stream_is_settled_late_and_once(
    desk: Desk, report: bool
) -> None:
    run = await desk.run(hold_output_tokens=64)
    run.facts.counted_output = 20
    await settled_extend(run)
    shard, reservation_id = desk.account.shard, run.hold.reservation_id
    due = DueReservation(shard, reservation_id, Account("acme", "k1", shard, 0))
    desk.bank.now_ms = run.hold.deadline_ms + 600_000
    expired = await desk.bank.ledger.expire(due)
    assert expired is not None
    run.facts.counted_output = 50
    await settled_extend(run)
    desk.wire.calls.clear()
    for counted in range(51, 300):
        run.facts.counted_output = counted
        assert not run.growth.watch()
    assert desk.wire.calls == [], "an ended reservation is not extended any more"
    saw(run, 300, stage="complete")
    if report:
        reported(run, {"input": 10, "output": 300})
    run.resolve()
    expire, late = await desk.events()
    assert (expire.kind, late.kind) == ("expire", "settle_late")
    output = 300 if report else 64
    assert late.usage["output"] == output, "beyond the hold only what was reported is charged"
    assert expire.amount_nano + late.amount_nano == (10 * 2000 + output * 5500) // 1000


async def test_a_hold_that_the_ledger_has_lost_is_charged_all_the_same(
    desk: Desk, valkey: redis.asyncio.Redis
) -> None:
    run = await desk.run()
    [key] = [k async for k in valkey.scan_iter(match=b"*r1") if b"r:" in k]
    await valkey.delete(key)
    await settled_extend(run)
    assert run.due_at == NEVER
    saw(run, 30, stage="complete")
    run.resolve()
    [event] = await desk.events()
    assert (event.kind, event.usage["output"]) == ("settle", 30)


async def test_an_extend_under_way_at_the_end_leaves_nothing_held(desk: Desk) -> None:
    run = await desk.run(hold_output_tokens=64)
    run.facts.counted_output = 60
    run.growth.watch()
    saw(run, 60, stage="complete")
    assert (await desk.end(run)).usage["output"] == 60


async def test_each_checkpoint_is_what_an_expiry_charges(desk: Desk) -> None:
    run = await desk.run()
    run.facts.counted_output = 25
    await settled_extend(run)
    [hold] = await desk.store.holds.open_holds("acme")
    assert hold.reservation.checkpoint == {"input": 10, "output": 25}
    run.resolve()


async def test_the_ledger_is_never_left_without_an_end(desk: Desk) -> None:
    """An unavailable ledger first, as `settled_within` sees it: no answer, and nothing raised."""
    run = await desk.run(stream=False)
    saw(run, 1, stage="complete")
    reported(run)
    desk.wire.faults["settle"] = [LedgerUnavailable("gone", unknown=True)]
    assert await run.settled_within(2) is None
    assert desk.journal.waiting_records == 1
    await desk.delivery.replay_journal()
    assert dict((await desk.end(run)).usage) == REPORTED


# Credit that others hold


async def hold_rest(desk: Desk, left_output: int) -> Hold:
    """Another request holds all but what this many output tokens cost."""
    wallet = (await desk.store.wallets.read(["acme"]))["acme"]
    over = wallet.available_nano(1 << 62) - left_output * 5500 // 1000
    prices = compile_prices({"input": 1000})
    vector = prices.vector({"input": over})
    hold = await desk.bank.ledger.reserve(
        desk.account, "other", prices, vector, vector, desk.bank.facts("acme", "other"),
        tokens=1, ttl_ms=60_000,
    )  # fmt: skip
    assert isinstance(hold, Hold), hold
    return hold


async def test_a_stream_waits_for_what_others_hold_and_goes_on(desk: Desk) -> None:
    run = await desk.run(hold_output_tokens=64, grow_wait_ms=30_000)
    other = await hold_rest(desk, 0)
    run.facts.counted_output = 65
    assert run.growth.watch()
    covered = asyncio.create_task(run.growth.covered())
    await until(lambda: run.growth.refused == "credit_held")
    assert not covered.done()
    await desk.bank.release("acme", other)
    assert await covered
    assert run.estimate.held_output > 64
    assert not run.growth.watch()
    assert (run.progress.flags, run.growth.refused) == ([], None)
    saw(run, 65, stage="complete")
    run.resolve()
    assert (await desk.events())[-1].usage["output"] == 65


async def test_a_stream_that_waits_in_vain_is_cut_and_says_who_holds_the_credit(
    desk: Desk,
) -> None:
    run = await desk.run(hold_output_tokens=64, grow_wait_ms=1)
    other = await hold_rest(desk, 4)
    cut = False
    while not cut:
        run.facts.counted_output += 1
        cut = run.growth.watch() and not await run.growth.covered()
    assert run.estimate.held_output == run.facts.counted_output - 1 == 64 + 4, (
        "what was left was used"
    )
    assert (run.progress.flags, run.growth.refused) == (["credit_held"], "credit_held")
    assert not run.growth.exhausted, "the credit has not ended"
    await desk.bank.release("acme", other)
    saw(run, 68, stage="cut")
    run.resolve()
    assert (await desk.events())[-1].amount_nano == run.held_nano - 40 * 2 + 10 * 2


async def test_the_end_of_the_credit_is_not_waited_for(desk: Desk) -> None:
    run = await desk.run(hold_output_tokens=64, grow_wait_ms=3_600_000)
    await drain_wallet(desk, 10)
    cut = False
    while not cut:
        run.facts.counted_output += 1
        cut = run.growth.watch() and not await asyncio.wait_for(run.growth.covered(), 30)
    assert run.estimate.held_output == run.facts.counted_output - 1 == 74, "to the last token"
    assert (run.progress.flags, run.growth.refused) == (
        ["credit_exhausted"],
        "insufficient_credits",
    )


async def test_a_burst_beyond_the_hold_waits_for_the_ledger_alone(desk: Desk) -> None:
    run = await desk.run(hold_output_tokens=64, grow_wait_ms=1)
    run.facts.counted_output = 600
    assert run.growth.watch()
    assert await run.growth.covered()
    assert run.estimate.held_output >= 600


async def test_a_stream_that_may_finish_waits_for_nobody(desk: Desk) -> None:
    run = await desk.run(hold_output_tokens=64, exhausted_stream="finish")
    await hold_rest(desk, 0)
    for counted in range(30, 900, 10):
        run.facts.counted_output = counted
        assert not run.growth.watch()
        await idle(run)
    assert run.growth.refused == "credit_held"


async def test_new_requests_stand_back_for_a_stream_that_wants_to_grow(desk: Desk) -> None:
    run = await desk.run(hold_output_tokens=64, grow_wait_ms=30_000)
    other = await hold_rest(desk, 0)
    run.facts.counted_output = 65
    covered = asyncio.create_task(run.growth.covered())
    await until(lambda: run.growth.refused == "credit_held")
    await desk.bank.release("acme", other)
    asked = compile_prices({"input": 1000})
    vector = asked.vector({"input": 10**10 - 10**6})
    denied = await desk.bank.ledger.reserve(
        desk.account, "new", asked, vector, vector, b"", tokens=1, ttl_ms=60_000
    )
    assert isinstance(denied, Denied)
    assert denied.reason == "credit_held", "although there is enough for it now"
    assert await covered


@pytest.mark.parametrize("policy", ["cut", "finish"])
async def test_a_drain_ends_where_the_hold_does_and_lets_it_grow_no_more(
    desk: Desk, policy: str
) -> None:
    run = await desk.run(hold_output_tokens=64, exhausted_stream=policy, disconnect_stream="drain")
    saw(run, 20)
    run.growth.drain()
    for counted in range(20, 64):
        run.facts.counted_output = counted
        assert not run.growth.watch()
    await settled_extend(run)  # the beat's
    assert run.estimate.held_output == 64
    run.facts.counted_output = 66
    assert run.growth.watch()
    run.progress.leave(unsent=False)
    event = await desk.end(run)
    assert event.usage["output"] == 64, "what the last piece had beyond the hold is not charged"


async def test_a_drain_that_begins_beyond_the_hold_charges_the_hold(
    desk: Desk,
) -> None:
    run = await desk.run(
        hold_output_tokens=64, exhausted_stream="finish", disconnect_stream="drain"
    )
    saw(run, 90)
    run.growth.drain()
    assert run.growth.watch()
    run.progress.leave(unsent=False)
    assert (await desk.end(run)).usage["output"] == 64, "nothing was reported"


# What the operator ends


@pytest.mark.parametrize("stage", ["complete", "cut", "left"])
async def test_what_has_ended_cannot_be_killed(desk: Desk, stage: str) -> None:
    run = await desk.run()
    saw(run, 30, stage=stage)
    reported(run)
    run.interrupt = pytest.fail
    run.kill("wallet_killed")
    assert "killed" not in (await desk.end(run)).facts["flags"]


async def test_a_kill_is_seen_by_whoever_asks_next_although_one_was_asking(desk: Desk) -> None:
    run = await desk.run()
    saw(run, 30)
    run.growth.extend()
    run.growth.look()
    await desk.bank.operator.account("acme", account_rev=2, killed=True)
    await until(lambda: run.progress.killed is not None)
    event = await desk.end(run)
    assert (event.usage["output"], event.facts["finish_reason"]) == (30, "error")


OPERATOR = [
    ("wallet_killed", "killed"),
    ("key_revoked", "killed"),
    ("gate_stopped", "gate_stopped"),
]


@pytest.mark.parametrize("policy", ["charge_seen", "drain", "charge_input", "charge_hold"])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize(("reason", "flag"), OPERATOR)
async def test_what_the_operator_ends_pays_what_was_delivered_under_every_policy(
    desk: Desk, policy: str, hidden: bool, reason: Any, flag: str
) -> None:
    run = await desk.run(disconnect_stream=policy, hidden_output=hidden, missing_usage="hold")
    saw(run, 30)
    run.kill(reason)
    run.progress.leave(unsent=False)
    event = await desk.end(run)
    assert (event.usage["output"], event.facts["flags"]) == (30, [flag])
    assert event.usage["input"] == run.estimate.input_count


@pytest.mark.parametrize(("reason", "flag"), OPERATOR)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_operator_ends_before_anything_was_delivered_is_released(
    desk: Desk, stream: bool, reason: Any, flag: str
) -> None:
    run = await desk.run(disconnect_json="charge_hold", disconnect_stream="charge_hold")
    saw(run, 0 if stream else 30)
    run.progress.streaming = stream
    run.kill(reason)
    run.progress.leave(unsent=False)
    event = await desk.end(run)
    assert (event.kind, event.facts["flags"]) == ("release", [flag])


@pytest.mark.parametrize("final", [False, True])
async def test_what_the_provider_reported_counts_when_the_operator_ends_it(
    desk: Desk, final: bool
) -> None:
    run = await desk.run(disconnect_stream="charge_hold")
    saw(run, 20)
    reported(run, {"input": 9, "output": 12}, final=final, at=12)
    run.kill("gate_stopped")
    event = await desk.end(run)
    assert (event.usage["input"], event.usage["output"]) == (9, 20)


async def test_what_was_not_held_when_the_operator_ends_it_is_not_charged(desk: Desk) -> None:
    run = await desk.run(hold_output_tokens=64, exhausted_stream="cut")
    saw(run, 500)
    run.kill("gate_stopped")
    assert (await desk.end(run)).usage["output"] == 64


async def test_a_hold_that_covers_the_end_of_a_stream_does_not_grow(desk: Desk) -> None:
    run = await desk.run(hold_output_tokens=50, exhausted_stream="cut")
    run.facts.counted_output = 49
    assert run.growth.act_at <= 49
    assert not run.growth.watch(ended=True)
    await asyncio.sleep(0)
    assert "extend" not in desk.wire.calls
    run.facts.counted_output = 51
    assert run.growth.watch(ended=True), "what goes beyond the hold has to be covered all the same"
    saw(run, 51, stage="complete")
    await desk.end(run)
