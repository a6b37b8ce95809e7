"""Load tests on real sockets: what is reported is what the provider saw, and stalls do not hide."""

import asyncio
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from loadtest.faults import parse_controls
from loadtest.tester.page import sentence
from loadtest.tester.report import Report
from loadtest.tester.run import search, verdict
from loadtest.tester.session import Outcome
from tests.support.gate import BROKE_KEY, KEY, running_gate
from tests.support.until import until
from tests.support.upstreams import Sim, sim

from .plans import plan_for, report_of

__all__ = ["sim"]


def simulate(sim: Sim, controls: str) -> None:
    sim.provider.controls = parse_controls(sim.provider.controls, controls)


async def test_all_that_is_reported_is_what_the_provider_served(sim: Sim) -> None:
    plan = plan_for(sim.url, rate=200, processes=2, requests={"stream": "0.5"})
    report = await report_of(plan)
    stage = report.headline
    served = sim.provider.served.totals()
    assert stage.gate.good == stage.gate.ended == served["posts"] == served["complete"] > 50
    assert stage.gate.statuses == {"200": served["posts"]}
    assert stage.senders.processes == 2
    assert stage.gate.latencies["total"].count == served["posts"]
    assert sum(moment.good for moment in stage.moments) == served["posts"]
    streams = [row for row in sim.provider.served.rows if row.stream]
    # role, tokens, finish, usage, [DONE]: a gap fewer than frames
    frames = sum(row.output + 4 for row in streams)
    assert stage.gate.latencies["frame_gap"].count == frames - len(streams)


async def test_warming_up_is_sent_and_not_measured(sim: Sim) -> None:
    report = await report_of(plan_for(sim.url, rate=100, arrivals="constant", warmup="500ms"))
    assert sim.provider.served.posts == 100
    assert report.headline.gate.ended == 50


async def test_a_stall_of_the_server_shows_in_the_percentiles(sim: Sim) -> None:
    """In 2 s at a constant rate, what is due in a stall of 1 s waits for its rest: half of all."""
    stalled_s = 1.0
    done: list[bool] = []

    def stall(outcome: Outcome) -> None:
        if not done and outcome.elapsed_s >= 0:
            done.append(True)
            time.sleep(stalled_s)  # the provider lives in this loop

    plan = plan_for(sim.url, rate=100, arrivals="constant", duration="2500ms", max_connections=4)
    report = await report_of(plan, stall)
    stage = report.headline
    assert done == [True]
    assert stage.gate.ended == 250  # none of those that could not be sent was left out
    total = stage.gate.latencies["total"].histogram()
    due_in_stall = stalled_s * 100
    beyond_half = total.percentile_ms(100 * (1 - 0.4 * due_in_stall / 250))
    assert beyond_half is not None
    assert beyond_half > stalled_s * 1e3 / 2
    assert any("waited for a free connection" in warning for warning in stage.warnings)


async def test_requests_that_never_get_a_connection_are_errors() -> None:
    plan = plan_for("http://127.0.0.1:1", rate=80, arrivals="constant", timeout="300ms")
    stage = (await report_of(plan)).headline
    assert stage.gate.error_names == {"never got a connection": 40}
    assert "No request got a good answer." in stage.warnings


async def test_timeouts_are_errors_and_count_with_the_time_waited(sim: Sim) -> None:
    simulate(sim, "hang=before_head")
    plan = plan_for(sim.url, rate=40, arrivals="constant", timeout="300ms", targets=["p50<10ms"])
    report = await report_of(plan)
    assert report.headline.gate.error_names == {"timed out": 20}
    assert report.headline.gate.latencies["total"].count == 20
    assert report.verdict != "met"


async def test_errors_of_the_upstream_are_told_from_refusals(sim: Sim) -> None:
    simulate(sim, "status=500 rate=0.5")
    plan = plan_for(sim.url, rate=100, targets=["errors<1%", "refusals<1%"])
    report = await report_of(plan)
    stage = report.headline
    served = sim.provider.served.totals()
    assert stage.gate.errors == served["errors"] > 0
    assert stage.gate.error_names == {"500 server_error": served["errors"]}
    assert [target.met for target in stage.targets] == [False, True]
    assert report.verdict == "missed" or stage.senders.limits


async def test_an_error_inside_a_stream_is_an_error(sim: Sim) -> None:
    simulate(sim, "error_at=2")
    plan = plan_for(sim.url, rate=40, arrivals="constant", requests={"stream": "1"})
    stage = (await report_of(plan)).headline
    assert stage.gate.error_names == {"200, then an error in the stream: server_error": 20}


async def test_a_closed_loop_has_as_many_requests_under_way_as_clients(sim: Sim) -> None:
    simulate(sim, "ttft_ms=20")
    seen: list[int] = []
    plan = plan_for(sim.url, connections=5, processes=2)
    report = await report_of(plan, lambda outcome: seen.append(outcome.running))
    assert sim.provider.served.connections == 5
    assert max(seen) <= 5
    assert report.headline.gate.good > 5
    assert (report.headline.rate, report.headline.connections) == (None, 5)


async def test_direct_runs_in_the_same_time_and_what_the_gate_adds_is_the_difference(
    sim: Sim, tmp_path: Path, valkey_socket: Path
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url) as gate:
        plan = plan_for(
            f"{gate.url}/v1",
            rate=120,
            arrivals="constant",
            models=[{"model": "small", "stream": "0.5"}],
            keys=[{"key": KEY, "weight": "3"}, {"key": BROKE_KEY, "weight": "1"}],
            direct={"url": sim.url, "share": "0.5"},
            targets=["added p50<10s", "refusal p99<10s", "refusals<100%"],
            duration="1s",
        )
        report = await report_of(plan)
        await gate.settle_all()
        stage = report.headline
        assert stage.direct is not None
        assert stage.gate.ended == 120
        assert stage.direct.good == stage.direct.ended == 60
        # every good answer was charged, every refusal was not, and none of direct's was
        assert len(await gate.events()) == stage.gate.good > 60
        assert stage.gate.refusals == {"402 credit_balance_exhausted": stage.gate.refused}
        assert stage.gate.good + stage.gate.refused == 120
        assert sim.provider.served.totals()["complete"] == stage.gate.good + 60
        gate_ms = stage.gate.latencies["total"].percentiles_ms["p50"]
        direct_ms = stage.direct.latencies["total"].percentiles_ms["p50"]
        assert gate_ms is not None
        assert direct_ms is not None
        assert stage.added_ms["total"]["p50"] == pytest.approx(gate_ms - direct_ms)
        assert "frame_gap" in stage.added_ms
        assert report.verdict == "met"
        assert KEY not in report.model_dump_json()


async def test_a_ramp_sends_more_and_more(sim: Sim) -> None:
    plan = plan_for(sim.url, ramp="20..180", arrivals="constant", duration="2s")
    report = await report_of(plan)
    first, second = report.headline.moments
    assert (first.good, second.good) == (60, 140)
    assert (first.rate, second.rate) == (60, 140)


async def test_steps_are_stages_each_judged(sim: Sim) -> None:
    plan = plan_for(sim.url, steps=["40", "80"], arrivals="constant", targets=["rate>=60"])
    report = await report_of(plan)
    assert [stage.gate.ended for stage in report.stages] == [20, 40]
    assert not report.stages[0].met
    assert report.verdict in ("missed", "inconclusive")


async def test_a_trace_is_played_over_all_processes(sim: Sim, tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    lines = [{"timestamp": 10 * n, "output_length": 1 + n % 5} for n in range(60)]
    file.write_text("\n".join(map(json.dumps, lines)))
    report = await report_of(plan_for(sim.url, trace=file, processes=2))
    assert report.headline.gate.good == 60
    served = sorted(row.output for row in sim.provider.served.rows)
    assert served == sorted(1 + n % 5 for n in range(60))


async def test_a_sender_that_is_late_is_said_to_be_the_limit(sim: Sim) -> None:
    """A rate that no process can send: its own lateness or CPU must show, not only the gate's."""
    plan = plan_for(sim.url, rate=200_000, duration="300ms", timeout="500ms", targets=["p99<1us"])
    report = await report_of(plan)
    assert report.headline.senders.limits
    assert report.verdict == "inconclusive"


async def test_senders_are_gone_when_a_run_is_given_up(sim: Sim) -> None:
    mine = psutil.Process()
    before = {child.pid for child in mine.children()}
    running = asyncio.ensure_future(report_of(plan_for(sim.url, rate=20, duration="60s")))
    await until(lambda: sim.provider.served.posts > 0, within_s=30)
    assert {child.pid for child in mine.children()} - before
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert {child.pid for child in mine.children()} <= before


# -- the search, on something that is known


@dataclass(frozen=True, slots=True)
class Tried:
    rate: float
    met: bool


@pytest.mark.parametrize("capacity", [50, 137, 500, 1999, 3999])
async def test_a_search_finds_the_highest_rate_within_its_precision(capacity: float) -> None:
    async def attempt(rate: float) -> Tried:
        return Tried(rate, rate <= capacity)

    tried = await search(50, 4000, 0.05, attempt)
    best = max(one.rate for one in tried if one.met)
    assert best <= capacity
    assert best >= capacity / 1.06 or math.isclose(best, capacity)
    assert len(tried) < 16


async def test_a_search_whose_lowest_rate_misses_stops_there() -> None:
    async def attempt(rate: float) -> Tried:
        return Tried(rate, met=False)

    assert await search(50, 4000, 0.05, attempt) == [Tried(50, met=False)]


async def test_a_search_that_never_misses_ends_at_its_highest_rate() -> None:
    async def attempt(rate: float) -> Tried:
        return Tried(rate, met=True)

    assert max(one.rate for one in await search(50, 300, 0.05, attempt)) == 300


def test_what_was_missed_while_the_generator_was_the_limit_is_not_decided(plain: Report) -> None:
    stage = plain.headline
    free = stage.model_copy(update={"senders": stage.senders.model_copy(update={"limits": []})})
    held = stage.model_copy(update={"senders": stage.senders.model_copy(update={"limits": ["x"]})})
    assert verdict("rate", [free], 0) == "missed"
    assert verdict("rate", [held], 0) == "inconclusive"
    assert verdict("steps", [held, free], 0) == "missed"
    searched = plain.model_copy(update={"shape": "search", "stages": [held]})
    assert searched.ended_by_generator
    assert "the gate may take more" in sentence(searched)
    assert not plain.model_copy(update={"shape": "search", "stages": [free]}).ended_by_generator
