"""A circuit breaker through a complete gate: what is refused while it is open, and how it closes."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.flow import sending
from tests.e2e.test_several_upstreams import MODEL, samples
from tests.support.clock import FakeClock
from tests.support.flaky import FlakyUpstream
from tests.support.gate import BROKE_KEY, Gate, running_gate
from tests.support.until import until

OPEN_S = 8
TIMEOUTS = {"connect_ms": 5_000, "head_ms": 20_000, "between_bytes_ms": 20_000}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The clock by which breakers open and close."""
    fake = FakeClock()
    monkeypatch.setattr(sending, "time", SimpleNamespace(monotonic=fake, time=time.time))
    return fake


@asynccontextmanager
async def one_upstream(
    tmp_path: Path, valkey_socket: Path, **breaker: Any
) -> AsyncIterator[tuple[Gate, FlakyUpstream]]:
    """A gate with a single upstream, whose breaker opens after three failures."""
    async with FlakyUpstream().running() as only:
        section = {
            "base_url": only.url,
            "timeouts": TIMEOUTS,
            "breaker": {"consecutive_failures": 3, "open_ms": OPEN_S * 1000, **breaker},
        }
        models = {"small": {**MODEL, "upstream": "only"}}
        policy = {"disconnect_json": "charge_input"}  # a client that leaves is not waited for
        async with running_gate(
            tmp_path,
            valkey_socket,
            only.url,
            upstreams={"only": section},
            models=models,
            policy=policy,
        ) as gate:
            yield gate, only


async def fail(gate: Gate, only: FlakyUpstream, trouble: str = "503") -> None:
    """Three failures."""
    only.trouble = trouble
    for _ in range(3):
        answer = await gate.chat(stream=trouble == "half")
        assert answer.status_code >= 500 or "error" in answer.text
    only.trouble = ""


def state(gate: Gate) -> float:
    return samples(gate, "creditgate_upstream_breaker_state")[("only",)]


@pytest.mark.parametrize("trouble", ["503", "reset", "half"])
async def test_it_opens_before_anything_is_reserved_and_closes_after_a_probe(
    tmp_path: Path,
    valkey_socket: Path,
    clock: FakeClock,
    trouble: str,
) -> None:
    with capture_logs() as logs:
        await _opens_and_closes(tmp_path, valkey_socket, clock, trouble)
    opened, closed = [line for line in logs if line["event"].startswith("upstream_")]
    assert (opened["event"], opened["upstream"], opened["open_ms"]) == (
        "upstream_opened",
        "only",
        OPEN_S * 1000,
    )
    assert (closed["event"], closed["upstream"]) == ("upstream_closed", "only")


async def _opens_and_closes(
    tmp_path: Path, valkey_socket: Path, clock: FakeClock, trouble: str
) -> None:
    async with one_upstream(tmp_path, valkey_socket) as (gate, only):
        await fail(gate, only, trouble)
        assert state(gate) == 2
        await gate.settle_all()
        events = len(await gate.events())
        for stream in False, True:
            refused = await gate.chat(stream=stream)
            assert refused.status_code == 503
            assert 1 <= int(refused.headers["retry-after"]) <= OPEN_S
            assert refused.json()["error"]["code"] == "upstream_unreachable"
            assert "x-should-retry" not in refused.headers
        assert only.posts == 3
        assert len(await gate.events()) == events
        denied = samples(gate, "creditgate_decisions_total")
        assert denied["deny", "upstream_open"] == 2
        assert samples(gate, "creditgate_upstream_breaker_opened_total") == {("only",): 1}

        clock.advance(OPEN_S)
        assert (await gate.chat()).status_code == 200
        assert state(gate) == 0
        assert (await gate.chat()).status_code == 200
        assert only.posts == 5


async def test_the_refusal_is_in_the_caller_s_format(
    tmp_path: Path, valkey_socket: Path, clock: FakeClock
) -> None:
    async with one_upstream(tmp_path, valkey_socket) as (gate, only):
        await fail(gate, only)
        message = {
            "model": "small",
            "max_tokens": 4,
            "messages": [{"role": "user", "content": "x"}],
        }
        refused = await gate.post("/v1/messages", message)
        assert (refused.status_code, refused.json()["type"]) == (503, "error")
        assert refused.headers["retry-after"]
        gemini = {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}
        refused = await gate.post("/v1beta/models/small:generateContent", gemini)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, 503)
        assert only.posts == 3


async def test_a_probe_that_fails_opens_it_again(
    tmp_path: Path, valkey_socket: Path, clock: FakeClock
) -> None:
    async with one_upstream(tmp_path, valkey_socket) as (gate, only):
        await fail(gate, only)
        clock.advance(OPEN_S)
        only.trouble = "503"
        assert (await gate.chat()).headers.get("x-error-source") == "upstream"
        assert (await gate.chat()).json()["error"]["code"] == "upstream_unreachable"
        assert only.posts == 4
        assert samples(gate, "creditgate_upstream_breaker_opened_total") == {("only",): 2}


async def test_half_open_lets_one_request_through(
    tmp_path: Path, valkey_socket: Path, clock: FakeClock
) -> None:
    async with one_upstream(tmp_path, valkey_socket) as (gate, only):
        await fail(gate, only)
        clock.advance(OPEN_S)
        only.trouble = "hang"
        probe = asyncio.create_task(gate.chat())
        await until(lambda: only.posts == 4)
        assert state(gate) == 1
        answers = await asyncio.gather(*(gate.chat() for _ in range(20)))
        assert {answer.status_code for answer in answers} == {503}
        assert only.posts == 4
        probe.cancel()
        await asyncio.wait([probe])
        only.trouble = ""
        await until(lambda: not gate.live)
        assert (await gate.chat()).status_code == 200, "the probe had no result"
        assert state(gate) == 0


async def test_a_probe_that_is_refused_by_the_ledger_makes_room_for_the_next(
    tmp_path: Path, valkey_socket: Path, clock: FakeClock
) -> None:
    async with one_upstream(tmp_path, valkey_socket) as (gate, only):
        await fail(gate, only)
        clock.advance(OPEN_S)
        body = {"model": "small", "messages": [{"role": "user", "content": "x"}]}
        broke = {"authorization": f"Bearer {BROKE_KEY}"}
        assert (await gate.post("/v1/chat/completions", body, broke)).status_code == 402
        assert (await gate.chat()).status_code == 200


async def test_a_repeat_gets_its_recorded_answer_while_it_is_open(
    tmp_path: Path, valkey_socket: Path, clock: FakeClock
) -> None:
    async with one_upstream(tmp_path, valkey_socket) as (gate, only):
        body = {"model": "small", "messages": [{"role": "user", "content": "x"}]}
        first = await gate.post("/v1/chat/completions", body, {"idempotency-key": "done"})
        assert first.status_code == 200
        await fail(gate, only)
        repeat = await gate.post("/v1/chat/completions", body, {"idempotency-key": "done"})
        assert (repeat.status_code, repeat.json()["error"]["code"]) == (409, "already_done")
        for _ in range(2):  # the name of what was refused may be used again
            fresh = await gate.post("/v1/chat/completions", body, {"idempotency-key": "new"})
            assert (fresh.status_code, fresh.json()["error"]["code"]) == (
                503,
                "upstream_unreachable",
            )
            await gate.settle_all()
            assert await gate.held_nano() == 0
        assert only.posts == 4
        assert len([event for event in await gate.events() if event.amount_nano]) == 1

        clock.advance(OPEN_S)
        fresh = await gate.post("/v1/chat/completions", body, {"idempotency-key": "new"})
        assert fresh.status_code == 200


@pytest.mark.parametrize("trouble", ["429", "500", "401"])
async def test_a_response_that_is_not_the_upstream_s_failure_opens_nothing(
    tmp_path: Path, valkey_socket: Path, clock: FakeClock, trouble: str
) -> None:
    async with one_upstream(tmp_path, valkey_socket) as (gate, only):
        only.trouble = trouble
        for _ in range(10):
            await gate.chat()
        assert only.posts == 10
        assert state(gate) == 0


async def test_one_that_is_turned_off_forwards_everything(
    tmp_path: Path, valkey_socket: Path
) -> None:
    async with one_upstream(tmp_path, valkey_socket, enabled=False) as (gate, only):
        only.trouble = "503"
        for _ in range(10):
            assert (await gate.chat()).headers["x-error-source"] == "upstream"
        assert only.posts == 10


async def test_a_connection_that_cannot_be_opened_counts_and_all_of_a_model_may_be_open(
    tmp_path: Path, valkey_socket: Path, clock: FakeClock
) -> None:
    async with one_upstream(tmp_path, valkey_socket) as (gate, only):
        only.refuse()
        assert [(await gate.chat()).status_code for _ in range(4)] == [502, 502, 502, 503]
        await only.listen()
        assert (await gate.chat()).status_code == 503
        clock.advance(OPEN_S)
        assert (await gate.chat()).status_code == 200
