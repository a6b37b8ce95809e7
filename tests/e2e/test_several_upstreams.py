"""A model with several upstreams through a complete gate: shares, moving on, and what never moves on."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.support.flaky import FlakyUpstream
from tests.support.gate import Gate, running_gate

TIMEOUTS = {"connect_ms": 5_000, "head_ms": 400, "between_bytes_ms": 400}
PATIENT = {"enabled": False}
MODEL = {"prices": {"input": "1.00", "output": "4.00"}, "max_output_tokens": 64}


@asynccontextmanager
async def spread_gate(
    tmp_path: Path,
    valkey_socket: Path,
    weights: dict[str, int],
    **upstream: Any,
) -> AsyncIterator[tuple[Gate, dict[str, FlakyUpstream]]]:
    """A gate whose model `small` has these upstreams. upstream: further settings of each"""
    async with AsyncExitStack() as stack:
        flaky = {
            name: await stack.enter_async_context(FlakyUpstream().running()) for name in weights
        }
        upstreams = {
            name: {
                "base_url": each.url,
                "timeouts": TIMEOUTS,
                "breaker": PATIENT,
                "credential": {"value": f"Bearer {name}"},
                **upstream,
            }
            for name, each in flaky.items()
        }
        served = [
            {"upstream": name, "weight": weight, "upstream_model": f"{name}-small"}
            for name, weight in weights.items()
        ]
        models = {"small": {**MODEL, "upstreams": served}}
        gate = await stack.enter_async_context(
            running_gate(
                tmp_path, valkey_socket, "http://127.0.0.1:9", upstreams=upstreams, models=models
            )
        )
        yield gate, flaky


def samples(gate: Gate, metric: str) -> dict[tuple[str, ...], float]:
    found = gate.service.snapshot()[metric]["samples"]
    return {tuple(labels): value for labels, value in found}


async def test_requests_are_shared_out_by_weight_each_as_its_upstream_wants_it(
    tmp_path: Path, valkey_socket: Path
) -> None:
    async with spread_gate(tmp_path, valkey_socket, {"a": 3, "b": 1, "c": 0}) as (gate, ups):
        answers = await asyncio.gather(*(gate.chat(stream=n % 2 == 0) for n in range(40)))
        assert {answer.status_code for answer in answers} == {200}
        assert [ups[name].posts for name in "abc"] == [30, 10, 0]
        for name in "ab":
            for head in ups[name].heads:
                assert dict(head.fields)["authorization"] == f"Bearer {name}"
                assert json.loads(head.body)["model"] == f"{name}-small"
        await gate.settle_all()
        named = Counter(event.facts["upstream"] for event in await gate.events())
        assert named == {"a": 30, "b": 10}


@pytest.mark.parametrize("stream", [False, True])
async def test_one_that_refuses_connections_is_passed_over(
    tmp_path: Path, valkey_socket: Path, capfd: pytest.CaptureFixture[str], stream: bool
) -> None:
    async with spread_gate(tmp_path, valkey_socket, {"a": 1, "b": 0}) as (gate, ups):
        ups["a"].refuse()
        answer = await gate.chat(stream=stream)
        assert answer.status_code == 200
        event = await gate.one_event()
        assert event.kind == "settle"
        assert event.amount_nano > 0
        assert event.facts["upstream"] == "b"
        assert event.facts["flags"] == ["failed_over"]
        assert "upstream_error" not in event.facts
        assert ups["b"].received == {event.facts["request_id"]: 1}
        assert json.loads(ups["b"].heads[0].body)["model"] == "b-small"
        assert samples(gate, "creditgate_upstream_failovers_total") == {("a", "refused"): 1}
        assert samples(gate, "creditgate_upstream_failures_total") == {("a", "refused"): 1}
        assert await gate.held_nano() == 0
    [line] = [json.loads(row) for row in capfd.readouterr().err.splitlines() if "POST" in row]
    assert line["upstream"] == "b"


async def test_a_request_without_any_upstream_that_can_be_reached_costs_nothing(
    tmp_path: Path, valkey_socket: Path
) -> None:
    async with spread_gate(tmp_path, valkey_socket, {"a": 1, "b": 1}) as (gate, ups):
        for each in ups.values():
            each.refuse()
        assert (await gate.chat()).status_code == 502
        event = await gate.one_event()
        assert (event.kind, event.facts["upstream_error"]) == ("release", "refused")
        assert samples(gate, "creditgate_upstream_failures_total") == {
            ("a", "refused"): 1,
            ("b", "refused"): 1,
        }


@pytest.mark.parametrize(
    ("trouble", "stream", "status", "kind"),
    [
        ("reset", False, 502, "release"),
        ("hang", False, 504, "release"),
        ("half", True, 200, "settle"),
        ("500", False, 500, "release"),
        ("503", True, 503, "release"),
        ("429", False, 429, "release"),
        ("429", True, 429, "release"),
    ],
)
async def test_what_an_upstream_may_have_received_is_never_sent_again(
    tmp_path: Path,
    valkey_socket: Path,
    trouble: str,
    stream: bool,
    status: int,
    kind: str,
) -> None:
    async with spread_gate(tmp_path, valkey_socket, {"a": 1, "b": 0}) as (gate, ups):
        ups["a"].trouble = trouble
        answer = await gate.chat(stream=stream)
        assert answer.status_code == status
        assert [ups[name].posts for name in "ab"] == [1, 0]
        event = await gate.one_event()
        assert event.kind == kind
        assert event.facts["upstream"] == "a"
        assert "failed_over" not in event.facts["flags"]
        assert await gate.held_nano() == 0
        if status == 429:
            assert answer.headers["retry-after"] == "7"
            assert await gate.settled_nano() == 0


async def test_a_status_that_is_configured_as_not_processed_moves_on(
    tmp_path: Path, valkey_socket: Path
) -> None:
    async with spread_gate(tmp_path, valkey_socket, {"a": 1, "b": 0}, failover_statuses=[503]) as (
        gate,
        ups,
    ):
        ups["a"].trouble = "503"
        assert (await gate.chat()).status_code == 200
        event = await gate.one_event()
        assert (event.facts["upstream"], event.facts["http_status"]) == ("b", 200)
        assert samples(gate, "creditgate_upstream_failovers_total") == {("a", "503"): 1}
        ups["b"].trouble = "503"
        assert (await gate.chat()).status_code == 503, "the last one's response passes"
        assert [ups[name].posts for name in "ab"] == [2, 2]


async def test_after_a_429_the_others_are_preferred_for_as_long_as_it_says(
    tmp_path: Path, valkey_socket: Path
) -> None:
    async with spread_gate(tmp_path, valkey_socket, {"a": 1, "b": 0}) as (gate, ups):
        ups["a"].trouble = "429"
        assert (await gate.chat()).status_code == 429
        assert [(await gate.chat()).status_code for _ in range(5)] == [200] * 5
        assert [ups[name].posts for name in "ab"] == [1, 5]
        ups["b"].refuse()
        assert (await gate.chat()).status_code == 429, "the one that rests is better than none"
        assert samples(gate, "creditgate_upstream_breaker_state") == {("a",): 0, ("b",): 0}


async def test_idempotency_and_connections_per_customer_work_across_upstreams(
    tmp_path: Path, valkey_socket: Path
) -> None:
    async with spread_gate(tmp_path, valkey_socket, {"a": 1, "b": 1}, pool="per_customer") as (
        gate,
        ups,
    ):
        ups["a"].refuse()
        body = {"model": "small", "messages": [{"role": "user", "content": "x"}]}
        for number in range(6):
            named = {"idempotency-key": f"key-{number}"}
            first, again = [await gate.post("/v1/chat/completions", body, named) for _ in range(2)]
            assert (first.status_code, again.status_code) == (200, 409)
        assert ups["b"].posts == 6
        await gate.settle_all()
        assert {event.kind for event in await gate.events()} == {"settle"}


class Unreliable(FlakyUpstream):
    """Has another trouble for each request."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = Random(seed)

    def next_trouble(self) -> str:
        return self.random.choice(
            ["", "", "", "goodbye", "goodbye", "reset", "half", "500", "503", "429"]
        )

    async def flap(self) -> None:
        """Refuse connections and accept them again, over and over."""
        while True:
            await asyncio.sleep(self.random.uniform(0.01, 0.1))
            self.refuse(drop=self.random.random() < 0.5)
            await asyncio.sleep(self.random.uniform(0.01, 0.1))
            await self.listen()


async def test_each_post_reaches_at_most_one_upstream_through_thousands_of_requests(
    tmp_path: Path, valkey_socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = iter(range(3))
    monkeypatch.setattr(
        "tests.e2e.test_several_upstreams.FlakyUpstream", lambda: Unreliable(next(seeds))
    )
    async with spread_gate(
        tmp_path, valkey_socket, {"a": 2, "b": 1, "c": 0}, breaker={"open_ms": 50}
    ) as (gate, ups):
        flapping = [asyncio.create_task(each.flap()) for each in ups.values()]  # type: ignore[attr-defined]
        statuses: Counter[int] = Counter()

        async def ask(count: int) -> None:
            for number in range(count):
                answer = await gate.chat(stream=number % 3 == 0)
                statuses[answer.status_code] += 1

        try:
            await asyncio.gather(*(ask(50) for _ in range(40)))
        finally:
            for task in flapping:
                task.cancel()
        await gate.settle_all()
        received = sum((each.received for each in ups.values()), Counter[str]())
        assert max(received.values()) == 1, "sent twice"
        assert len(received) > 500
        assert statuses.total() == 2000
        events = await gate.events()
        by_id = {event.facts["request_id"]: event for event in events}
        assert len(by_id) == len(events)
        assert received.keys() <= by_id.keys(), "sent without a hold"
        assert any("failed_over" in event.facts["flags"] for event in events)
        for request_id, event in by_id.items():
            if event.facts["http_status"] is not None:
                assert ups[event.facts["upstream"]].received[request_id] == 1
        assert await gate.held_nano() == 0
        charged = sum(event.amount_nano for event in events)
        assert await gate.settled_nano() == charged
