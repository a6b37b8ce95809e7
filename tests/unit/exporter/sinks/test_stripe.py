"""Meter events, against a stand-in with Stripe's documented behaviour (`stripe_standin.py`)."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.delivery import Place
from gateway.domain.event_rows import EventRow
from gateway.exporter.sink import Batch, SinkUnavailable, Written
from gateway.exporter.sinks.options_stripe import StripeOptions
from gateway.exporter.sinks.stripe import StripeSink
from tests.support.billing_standins import running
from tests.support.stripe_standin import Metered, StripeStandIn
from tests.unit.exporter.sinks.contract import make_batch, make_row
from tests.unit.exporter.sinks.stripe_killable import EACH, SHARDS, events

ROOT = Path(__file__).parents[4]
HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
BOTH_WAYS = pytest.mark.parametrize("stream", [False, True], ids=["v1", "stream"])


def use(seq: int, minute: float, shard: int = 0, **changed: Any) -> EventRow:
    """A usage of 10 input tokens so many minutes after the hour."""
    facts = {"tags": {"stripe_customer_id": changed.pop("stripe", "cus_acme")}}
    plain = {"usage": {"input": 10}, "facts": facts, "amount_nano": 700}
    at_ms = int(START_MS + minute * 60_000)
    return make_row(seq, shard, occurred_at_ms=at_ms, **{**plain, **changed})


def fed(rows: Sequence[EventRow], begins: int) -> Batch:
    """A batch of shard 0 that begins behind this seq."""
    last = rows[-1].place if rows else Place(1, begins)
    return Batch(rows, {0: last}, begins={0: Place(1, begins)})


@pytest.fixture
async def stripe() -> AsyncIterator[StripeStandIn]:
    standin = StripeStandIn()
    async with running(standin):
        yield standin


@pytest.fixture
def options(stripe: StripeStandIn) -> StripeOptions:
    return StripeOptions(
        key="sk_test_key",
        meters={"input": "llm_input", "output": "llm_output", "amount": "llm_spend"},
        url=stripe.url,
        stream_url=stripe.url,
        timeout_ms=2000,
    )


@pytest.fixture
async def sink(options: StripeOptions) -> AsyncIterator[StripeSink]:
    sink = StripeSink(options)
    await sink.open()
    yield sink
    await sink.close()


def inputs(stripe: StripeStandIn) -> list[Metered]:
    return [each for each in stripe.metered if each.meter == "llm_input"]


@BOTH_WAYS
async def test_an_hour_is_one_meter_event_for_each_customer_and_meter(
    options: StripeOptions, stripe: StripeStandIn, stream: bool
) -> None:
    sink = StripeSink(replace(options, stream=stream))
    await sink.open()
    rows = [use(0, 1), use(1, 2), use(2, 3, stripe="cus_zeta"), use(3, 59.9), use(4, 60)]
    written = await sink.write(fed(rows, -1))
    start_s = START_MS // 1000
    assert sorted(stripe.metered, key=str) == [
        Metered("llm_input", "cus_acme", 30, start_s + 60),
        Metered("llm_input", "cus_zeta", 10, start_s + 180),
        Metered("llm_spend", "cus_acme", 2100, start_s + 60),
        Metered("llm_spend", "cus_zeta", 700, start_s + 180),
    ]
    assert (written.stored, written.reached) == (5, {0: Place(1, 3)})
    await sink.close()


async def test_events_of_an_open_hour_are_held_back_and_come_in_any_number_of_batches(
    sink: StripeSink, stripe: StripeStandIn
) -> None:
    reached = [(await sink.write(fed([use(seq, seq)], seq - 1))).reached for seq in range(60)]
    assert reached == [{0: Place(1, -1)}] * 60
    assert stripe.calls == []
    await sink.write(fed([use(60, 61)], 59))
    assert [each.value for each in inputs(stripe)] == [600]


@BOTH_WAYS
async def test_the_same_hour_aggregated_again_after_a_restart_does_not_double(
    options: StripeOptions, stripe: StripeStandIn, stream: bool
) -> None:
    rows = [use(seq, seq * 7) for seq in range(30)]
    for cuts in ((7, 20, 30), (3, 4, 30), (30,)):
        sink = StripeSink(replace(options, stream=stream))
        await sink.open()
        at = 0
        for cut in cuts:
            await sink.write(fed(rows[at:cut], at - 1))
            at = cut
        await sink.close()
    assert [each.value for each in inputs(stripe)] == [90, 90, 80]
    assert len(stripe.repeats) == 12


async def test_an_idle_shard_is_closed_when_nothing_more_is_waiting(
    sink: StripeSink, stripe: StripeStandIn
) -> None:
    now_ms = time.time_ns() // 1_000_000
    old = use(0, 0)._replace(occurred_at_ms=now_ms - 2 * HOUR_MS)
    young = old._replace(event_id="young:settled", seq=1, occurred_at_ms=now_ms)
    await sink.write(fed([old], -1))
    assert stripe.metered == []
    written = await sink.write(fed([], 0))
    assert (len(inputs(stripe)), written.reached) == (1, {0: Place(1, 0)})
    await sink.write(fed([young], 0))
    written = await sink.write(fed([], 1))
    assert (len(inputs(stripe)), written.reached) == (1, {0: Place(1, 0)})


async def test_a_time_that_went_back_counts_in_the_open_hour(
    sink: StripeSink, stripe: StripeStandIn
) -> None:
    await sink.write(fed([use(0, 59), use(1, 61), use(2, 59.9), use(3, 125)], -1))
    assert [each.value for each in inputs(stripe)] == [10, 20]


async def test_an_event_after_its_hour_was_sent_is_a_meter_event_of_its_own(
    sink: StripeSink, stripe: StripeStandIn
) -> None:
    await sink.write(fed([use(0, 1)], -1))
    await sink.write(fed([], 0))
    await sink.write(fed([use(1, 2)], 0))
    await sink.write(fed([], 1))
    assert [each.value for each in inputs(stripe)] == [10, 10]
    assert len(set(stripe.seen)) == 4


async def test_events_out_of_the_order_of_the_outbox_are_not_taken(
    sink: StripeSink, stripe: StripeStandIn
) -> None:
    with pytest.raises(SinkUnavailable, match="none can be replayed"):
        await sink.write(Batch([use(0, 1)], {0: Place(1, 0)}))
    assert stripe.metered == []


async def test_a_marked_event_tries_out_the_connection_only(
    sink: StripeSink, stripe: StripeStandIn
) -> None:
    marked = use(0, 1, amount_nano=0, facts={"test": True})._replace(livemode=False, usage="{}")
    assert (await sink.write(Batch([marked]))).skipped == 1
    assert stripe.metered == []


async def test_a_batch_that_failed_is_taken_once_when_it_comes_again(
    sink: StripeSink, stripe: StripeStandIn
) -> None:
    await sink.write(fed([use(0, 1)], -1))
    batch = fed([use(1, 2), use(2, 61)], 0)
    stripe.answers = [503, 503]
    with pytest.raises(SinkUnavailable, match="answered 503"):
        await sink.write(batch)
    await sink.open()
    written = await sink.write(batch)
    assert (written.duplicates, written.reached) == (2, {0: Place(1, 1)})
    assert [each.value for each in inputs(stripe)] == [20]
    assert stripe.repeats == []


async def test_a_shard_that_another_exporter_had_meanwhile_starts_afresh(
    sink: StripeSink, stripe: StripeStandIn
) -> None:
    await sink.write(fed([use(0, 1), use(1, 2)], -1))
    written = await sink.write(fed([use(7, 61), use(8, 121)], 6))
    assert written.reached == {0: Place(1, 7)}
    assert [each.value for each in inputs(stripe)] == [10]


async def test_a_shard_that_is_not_fed_is_not_sent(sink: StripeSink, stripe: StripeStandIn) -> None:
    await sink.write(fed([use(0, 1)], -1))
    other = {1: Place(1, 3)}
    written = await sink.write(Batch((), other, begins=other))
    assert (stripe.metered, written.reached) == ([], other)


async def test_an_unknown_customer_fails_alone_and_its_meter_event_is_named(
    sink: StripeSink, stripe: StripeStandIn
) -> None:
    rows = [use(0, 1, stripe="cus_gone", amount_nano=0), use(1, 2, stripe="cus_gone"), use(2, 3)]
    written = await sink.write(fed([*rows, use(3, 61)], -1))
    first, second = sorted(written.failed, key=lambda failure: failure.row.seq)
    assert (first.row, first.retry, second.row) == (rows[0], False, rows[1])
    assert "No such customer: 'cus_gone' for the meter event {" in first.reason
    assert '"value":20,"events":2,"last":"1-1"' in first.reason
    assert [each.value for each in inputs(stripe)] == [10]
    written = await sink.write(Batch((), {0: Place(1, 3)}))  # as the feeder does after a failure
    assert (written.failed, written.reached) == ([], {0: Place(1, 2)})


async def test_an_event_without_a_customer_of_stripe_fails_alone(
    sink: StripeSink, stripe: StripeStandIn
) -> None:
    rows = [use(0, 1, facts={}), use(1, 2), use(2, 61)]
    written = await sink.write(fed(rows, -1))
    assert [(failure.row, failure.reason) for failure in written.failed] == [
        (rows[0], "the event has no value for {tags.stripe_customer_id}")
    ]
    assert (written.stored, len(inputs(stripe))) == (2, 1)


async def test_what_is_not_billed_moves_the_cursor(sink: StripeSink, stripe: StripeStandIn) -> None:
    rows = [use(0, 1, kind="grant"), use(1, 2)._replace(livemode=False), use(2, 3, kind="release")]
    written = await sink.write(fed(rows, -1))
    assert (written.skipped, written.reached, stripe.calls) == (3, {0: Place(1, 2)}, [])


async def test_a_late_settle_corrects_the_charge_only(
    sink: StripeSink, stripe: StripeStandIn
) -> None:
    late = use(1, 2, kind="settle_late", amount_nano=-300, usage={"input": 25})
    await sink.write(fed([use(0, 1, kind="expire"), late, use(2, 61)], -1))
    assert stripe.totals == {("cus_acme", "llm_input"): 10, ("cus_acme", "llm_spend"): 400}


async def test_a_timestamp_beyond_the_window_of_stripe_fails_alone(
    sink: StripeSink, stripe: StripeStandIn
) -> None:
    stripe.now_s = START_MS / 1000 + 36 * 86_400
    written: Written = await sink.write(fed([use(0, 1), use(1, 61)], -1))
    assert all("timestamp is outside" in failure.reason for failure in written.failed)
    assert len(written.failed) == 2


async def test_the_replay_age_is_below_the_24_hours_of_an_identifier(sink: StripeSink) -> None:
    assert sink.max_replay_age_ms == 23 * HOUR_MS


async def test_a_wrong_key_is_named_and_not_shown(options: StripeOptions) -> None:
    for stream in (False, True):
        sink = StripeSink(replace(options, key="sk_test_wrong", stream=stream))
        with pytest.raises(SinkUnavailable, match="the key is wrong") as caught:
            await sink.open()
        assert "sk_test" not in str(caught.value) + repr(sink)
        await sink.close()
    assert "sk_test" not in repr(options)


async def test_a_meter_that_does_not_exist_is_named(
    options: StripeOptions, stripe: StripeStandIn
) -> None:
    sink = StripeSink(replace(options, meters={"input": "llm_inptu"}))
    with pytest.raises(SinkUnavailable, match="no active meter llm_inptu"):
        await sink.open()
    stripe.may_read = False
    await sink.open()  # a restricted key may only write
    await sink.close()


async def test_the_stream_gets_a_new_token_before_the_old_one_ends(
    options: StripeOptions, stripe: StripeStandIn
) -> None:
    sink = StripeSink(replace(options, stream=True))
    await sink.open()
    await sink.write(fed([use(0, 1), use(1, 61)], -1))
    assert len(stripe.tokens) == 1
    stripe.tokens = dict.fromkeys(stripe.tokens, 0.0)  # revoked
    with pytest.raises(SinkUnavailable, match="401"):
        await sink.write(fed([use(2, 121)], 1))
    stripe.token_s = 30.0  # below what is kept in reserve
    for seq in (2, 3, 4):
        await sink.write(fed([use(seq, 61 + (seq - 1) * 60)], seq - 1))
    assert len(stripe.tokens) == 4
    assert sum(each.value for each in inputs(stripe)) == 40
    await sink.close()


async def test_the_stream_finds_the_one_that_fails_its_call(
    options: StripeOptions, stripe: StripeStandIn
) -> None:
    sink = StripeSink(replace(options, stream=True, meters={"input": "llm_input"}))
    await sink.open()
    rows = [use(seq, 1, stripe=f"cus_{seq}") for seq in range(120)]
    rows[33] = use(33, 1, stripe="bad")
    written = await sink.write(fed([*rows, use(120, 61)], -1))
    assert [failure.row for failure in written.failed] == [rows[33]]
    assert len(stripe.metered) == 119
    await sink.close()


async def test_it_goes_on_when_stripe_is_back(sink: StripeSink, stripe: StripeStandIn) -> None:
    await stripe.stop()
    with pytest.raises(SinkUnavailable):
        await sink.write(fed([use(0, 1), use(1, 61)], -1))
    with pytest.raises(SinkUnavailable):
        await sink.open()
    await stripe.start()
    await sink.open()
    await sink.write(fed([use(0, 1), use(1, 61)], -1))
    assert [each.value for each in inputs(stripe)] == [10]


async def test_writing_unopened_is_unavailable(options: StripeOptions) -> None:
    with pytest.raises(SinkUnavailable):
        await StripeSink(options).write(make_batch(0, 1))


async def test_killed_anywhere_the_meters_show_each_event_once(
    stripe: StripeStandIn, tmp_path: Path
) -> None:
    script = str(Path(__file__).with_name("stripe_killable.py"))

    async def run(seed: int, *more: str) -> int:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, script, stripe.url, str(tmp_path / "cursors"), str(seed), *more),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        return await asyncio.wait_for(process.wait(), 30)

    kills = 0
    for seed in range(int(os.environ.get("CREDITGATE_EXPORTER_KILLS", "4"))):
        kills += await run(seed) == -signal.SIGKILL
    assert kills >= 2
    assert await run(99, "finish") == 0
    expected: dict[tuple[str, str], int] = {}
    for shard in range(SHARDS):
        for row in events(shard):
            customer = row.facts.partition('stripe_customer_id":"')[2][:8]
            key = customer, "llm_input"
            expected[key] = expected.get(key, 0) + int(row.usage[9:-1])
    assert len(stripe.metered) > EACH // 20
    assert stripe.totals == expected
