"""The load generator against the simulated provider: every request sent ends in one outcome."""

import asyncio

import pytest

from loadtest.generator import Load, Result, percentile
from loadtest.requests import CLIENT_HEADERS, Shot, chat_body, http_request, in_turn, same
from loadtest.tls import TlsFiles
from tests.support.upstreams import Sim, sim, sim_tls, tls_files

__all__ = ["sim", "sim_tls", "tls_files"]


def shot(
    line: str = "", *, stream: bool = False, ident: str = "", leave: int | None = None
) -> Shot:
    headers = {**CLIENT_HEADERS, "x-request-id": ident}
    body = chat_body("m", stream=stream, line=line)
    return Shot(http_request("/v1/chat/completions", body, headers), ident, leave)


async def test_a_closed_loop_sends_each_request_once_and_counts_all(sim: Sim) -> None:
    shots = [shot("sim: tokens=3", stream=n % 2 == 0, ident=f"r{n}") for n in range(200)]
    result = await Load(sim.url, in_turn(shots), connections=8, record=True).run()
    assert (result.sent, result.good, dict(result.endings)) == (200, 200, {"whole": 200})
    assert sorted(o.request_id for o in result.outcomes) == sorted(s.request_id for s in shots)
    assert sim.provider.served.totals()["repeated_ids"] == 0
    assert sim.provider.served.connections == 8


async def test_an_open_loop_keeps_its_rate_though_answers_are_slow(sim: Sim) -> None:
    load = Load(
        sim.url, same(shot("sim: tokens=1 ttft_ms=150")), connections=200, rate=200, seconds=1
    )
    result = await load.run()
    assert 120 < result.sent < 280
    assert result.good == result.sent


async def test_open_loop_latency_counts_the_wait_for_a_connection(sim: Sim) -> None:
    load = Load(
        sim.url, same(shot("sim: tokens=1 ttft_ms=100")), connections=1, rate=50, seconds=0.5
    )
    result = await load.run()
    assert max(result.total_s) > 0.25  # it queued behind others; the server alone takes 0.1


@pytest.mark.parametrize(
    ("line", "ending", "status"),
    [
        ("sim: tokens=9 cut=3", "cut", 200),
        ("sim: rst=before_head", "cut", 0),
        ("sim: hang=before_head", "timeout", 0),
        ("sim: hang=after_head", "timeout", 200),
    ],
)
async def test_a_faulty_answer_ends_as_what_it_is(
    sim: Sim, line: str, ending: str, status: int
) -> None:
    source = in_turn([shot(line, stream=True, ident="a")])
    load = Load(sim.url, source, connections=1, timeout_s=0.1, record=True, drain_s=2)
    result = await load.run()
    assert [(o.ending, o.status) for o in result.outcomes] == [(ending, status)]
    assert result.good == 0


async def test_refusals_are_counted_by_status_and_code(sim: Sim) -> None:
    result = await Load(sim.url, in_turn([shot("sim: status=429")] * 3), connections=1).run()
    assert dict(result.refusals) == {(429, "invalid_request_error"): 3}


async def test_a_client_told_to_leave_leaves_and_goes_on(sim: Sim) -> None:
    line = "sim: tokens=500 itl_ms=2"
    shots = [shot(line, stream=True, ident="a", leave=600), shot("sim: tokens=1", ident="b")]
    result = await Load(sim.url, in_turn(shots), connections=1, record=True).run()
    assert [(o.request_id, o.ending) for o in result.outcomes] == [("a", "left"), ("b", "whole")]
    await asyncio.sleep(0.05)
    assert sim.row("a").state == "broken"


async def test_it_goes_on_when_every_connection_is_cut_off(sim: Sim) -> None:
    source = same(shot("sim: tokens=1 close=1"))
    result = await Load(sim.url, source, connections=2, seconds=0.3).run()
    assert result.good > 10
    assert dict(result.endings) == {"whole": result.sent}


async def test_nothing_listening_is_counted_not_raised() -> None:
    result = await Load("http://127.0.0.1:1", same(shot()), connections=1, seconds=0.1).run()
    assert result.sent == 0
    assert result.connect_failures > 0


async def test_it_speaks_tls(sim_tls: Sim, tls_files: TlsFiles) -> None:
    load = Load(
        sim_tls.url,
        in_turn([shot("sim: tokens=2")] * 5),
        connections=2,
        tls=tls_files.client_context(),
    )
    assert (await load.run()).good == 5


def test_the_body_has_the_size_asked_for() -> None:
    for size in (950, 100_000):
        assert abs(len(chat_body("m", stream=True, size_bytes=size, line="sim: cut=1")) - size) < 5


def test_percentiles_are_of_the_sorted_values() -> None:
    result = Result()
    result.total_s.extend([3.0, 1.0, 2.0, 4.0])
    assert (percentile(result.total_s, 0.5), percentile(result.total_s, 0.99)) == (3.0, 4.0)
