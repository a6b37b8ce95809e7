"""Promise 13: the ledger is down. New requests are 503 at once and the upstream hears nothing;
running ones end, their settles wait in the journal and land once it is back.

Two ways to be down: stopped (a connection that is open and silent) and killed.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.app import background
from gateway.ledger.client.errors import LedgerUnavailable
from tests.ledger.servers import OwnServer, server
from tests.support.gate import Gate, digest, running_gate
from tests.support.until import until
from tests.support.upstreams import Sim

AOF = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """A server that keeps what it acknowledged."""
    with server(tmp_path_factory.mktemp("own"), *AOF) as started:
        yield started
        if started.process.poll() is None:
            os.kill(started.process.pid, signal.SIGCONT)


@pytest.fixture
async def gate(
    tmp_path: Path, own: OwnServer, sim: Sim, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gate]:
    monkeypatch.setattr(background, "REPLAY_EVERY_S", 0.1)
    async with running_gate(tmp_path, own.socket, sim.url, ledger_timeout_s=1.0) as running:
        yield running


async def go_down(own: OwnServer, how: str) -> None:
    if how == "stopped":
        os.kill(own.process.pid, signal.SIGSTOP)
    else:
        await asyncio.to_thread(own.kill)


async def come_back(own: OwnServer, how: str) -> None:
    if how == "stopped":
        os.kill(own.process.pid, signal.SIGCONT)
    else:
        await asyncio.to_thread(own.start)


async def settled_within(gate: Gate, events: int, seconds: float = 20) -> None:
    """Wait until nothing is held and this many events are there."""

    async def landed() -> bool:
        with suppress(LedgerUnavailable):  # the test's own client is still reconnecting
            return await gate.held_nano() == 0 and len(await gate.events()) >= events
        return False

    await until(landed, seconds)


async def admitted(gate: Gate) -> bool:
    return (await gate.chat("hi\nsim: tokens=3")).status_code == 200


async def ready(gate: Gate) -> bool:
    return (await gate.client.get("/readyz")).status_code == 200


async def not_ready(gate: Gate) -> bool:
    return (await gate.client.get("/readyz")).status_code == 503


HOW = pytest.mark.parametrize("how", ["stopped", "killed"])


@HOW
async def test_reserves_are_503_at_once_and_the_upstream_hears_nothing(
    gate: Gate, own: OwnServer, sim: Sim, how: str
) -> None:
    assert (await gate.chat("hi\nsim: tokens=3")).status_code == 200
    await gate.settle_all()
    await go_down(own, how)
    posts = sim.provider.served.posts
    began = time.monotonic()
    answers = await asyncio.gather(*(gate.chat("hi", stream=n % 2 == 1) for n in range(20)))
    took_s = time.monotonic() - began
    assert {answer.status_code for answer in answers} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    assert all("x-should-retry" not in answer.headers for answer in answers)
    assert took_s < 3, "within about a second each, all at once"
    assert sim.provider.served.posts == posts
    await come_back(own, how)
    await settled_within(gate, 1)
    usage = [event for event in await gate.events() if event.amount_nano]
    assert len(usage) == 1, "what was refused cost nothing"
    await until(lambda: admitted(gate))
    assert await ready(gate)


@HOW
async def test_running_requests_end_well_and_their_settles_land_later(
    gate: Gate, own: OwnServer, sim: Sim, how: str
) -> None:
    asked = [
        asyncio.create_task(gate.chat("hi\nsim: tokens=40 itl_ms=20", stream=True))
        for _ in range(3)
    ] + [asyncio.create_task(gate.chat("hi\nsim: tokens=7 ttft_ms=700")) for _ in range(3)]
    await until(lambda: sim.provider.served.posts == 6)
    await go_down(own, how)
    answers = await asyncio.gather(*asked)
    for answer in answers[:3]:
        assert answer.text.endswith("data: [DONE]\n\n")
    for answer in answers[3:]:
        assert answer.status_code == 200
        assert "x-credits-cost" not in answer.headers, "nothing is settled yet"
        assert "x-credits-remaining" in answer.headers
    await gate.settle_all()
    assert gate.service.snapshot()["creditgate_settle_journal_entries"]["samples"] == [[[], 6]]
    await come_back(own, how)
    await settled_within(gate, 6)
    events = await gate.events()
    assert [event.kind for event in events] == ["settle"] * 6
    assert sorted(event.usage["output"] for event in events) == [7, 7, 7, 40, 40, 40]
    assert {event.event_id for event in events} == {
        f"{answer.headers['x-request-id']}:settled" for answer in answers
    }
    assert await gate.settled_nano() == sum(event.amount_nano for event in events)
    assert gate.service.snapshot()["creditgate_settle_journal_entries"]["samples"] == [[[], 0]]


@HOW
async def test_a_stream_that_outgrows_its_hold_meanwhile_goes_on_and_is_charged(
    tmp_path: Path, own: OwnServer, sim: Sim, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "REPLAY_EVERY_S", 0.1)
    policy = {"preset": "balanced", "hold_output_tokens": 20, "checkpoint_interval_ms": 100}
    async with running_gate(
        tmp_path, own.socket, sim.url, policy=policy, ledger_timeout_s=1.0
    ) as gate:
        asked = asyncio.create_task(gate.chat("hi\nsim: tokens=200 itl_ms=5", stream=True))
        await until(lambda: sim.provider.served.posts)
        await go_down(own, how)
        answer = await asked
        assert answer.text.endswith("data: [DONE]\n\n")
        await gate.settle_all()
        await come_back(own, how)
        await settled_within(gate, 1)
        [event] = await gate.events()
        assert (event.kind, event.usage["output"]) == ("settle", 200)


async def test_a_gate_that_stops_while_the_ledger_is_down_leaves_its_settles_to_its_successor(
    tmp_path: Path, own: OwnServer, sim: Sim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "REPLAY_EVERY_S", 0.1)
    async with running_gate(tmp_path, own.socket, sim.url, ledger_timeout_s=1.0) as gate:
        asked = asyncio.create_task(gate.chat("hi\nsim: tokens=9 ttft_ms=400"))
        await until(lambda: sim.provider.served.posts)
        await go_down(own, "killed")
        answer = await asked
        assert answer.status_code == 200
    left = list((tmp_path / "data" / "journal").glob("settles-*.journal"))
    assert len(left) == 1
    await come_back(own, "killed")
    async with running_gate(tmp_path, own.socket, sim.url, empty=False) as gate:
        await settled_within(gate, 1)
        [event] = await gate.events()
        assert event.event_id == f"{answer.headers['x-request-id']}:settled"
        await until(lambda: not left[0].exists())


async def test_a_made_key_and_the_balance_are_503_too_and_soon(gate: Gate, own: OwnServer) -> None:
    await gate.store.keys.add(digest("sk-made"), "k-made", "acme")
    made = {"authorization": "Bearer sk-made"}
    await go_down(own, "stopped")
    began = time.monotonic()
    answers = await asyncio.gather(
        gate.client.get("/v1/credits", headers=gate.headers),
        gate.client.get("/v1/models", headers=made),
        gate.client.get("/v1/models", headers=gate.headers),
        gate.client.get("/healthz"),
    )
    assert [answer.status_code for answer in answers] == [503, 503, 200, 200]
    assert time.monotonic() - began < 3
    await come_back(own, "stopped")


async def test_a_gate_whose_ledger_is_killed_says_that_it_is_not_ready(
    gate: Gate, own: OwnServer
) -> None:
    await go_down(own, "killed")
    await until(lambda: not_ready(gate))
    await come_back(own, "killed")
    await until(lambda: ready(gate))
