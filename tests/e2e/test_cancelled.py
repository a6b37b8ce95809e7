"""Cancelled at every await: whatever a request was waiting for, nothing stays held and the
upstream's work is paid for once.

The server cancels what outlives its grace, and the flow cancels itself when a client has gone:
both can hit any await. The flow runs here without a connection, so that it can be stepped.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.http.interface import ClientGone, Exchange, RequestHead
from tests.support.gate import KEY, Gate, running_gate
from tests.support.upstreams import Sim

MOST_STEPS = 200


class Stepped(Exchange):
    """A caller that sends a body and takes what it is given, a loop's tick each."""

    def __init__(self, body: bytes) -> None:
        fields = [("authorization", f"Bearer {KEY}"), ("content-type", "application/json")]
        self.head = RequestHead("POST", "/v1/chat/completions", "", fields)
        self.method, self.path, self.query = self.head.method, self.head.path, ""
        self.content_length = len(body)
        self.remote = self.owner = ""
        self.status = 0
        self.also = b""
        self._body = body
        self.gone = False
        self._on_gone: Callable[[], None] | None = None

    async def read_body(self, limit_bytes: int) -> bytes:
        await asyncio.sleep(0)
        return self._body

    async def start(
        self, status: int, fields: bytes, length: int | None, *, more: bool = False
    ) -> None:
        await self._tick()
        self.status = status

    async def write(self, data: bytes, *, more: bool = False) -> None:
        await self._tick()

    async def end(self) -> None:
        await self._tick()

    async def _tick(self) -> None:
        await asyncio.sleep(0)
        if self.gone:
            raise ClientGone

    def abort(self) -> None:
        self.gone = True

    def client_gone(self) -> bool:
        return self.gone

    def on_gone(self, callback: Callable[[], None]) -> None:
        self._on_gone = callback

    def leave(self) -> None:
        """The client closes its connection."""
        self.gone = True
        if self._on_gone is not None:
            self._on_gone()


@pytest.fixture
async def gate(tmp_path: Path, valkey_socket: Path, sim: Sim) -> AsyncIterator[Gate]:
    policy = {"preset": "balanced", "hold_output_tokens": 8, "drain_max_ms": 200}
    async with running_gate(tmp_path, valkey_socket, sim.url, policy=policy) as running:
        yield running


async def run_some_steps(task: "asyncio.Task[Any]", steps: int) -> bool:
    """Let the loop turn; whether the task still runs."""
    for _ in range(steps):
        await asyncio.sleep(0)
        if task.done():
            return False
    return not task.done()


@pytest.mark.parametrize("how", ["cancelled", "left"])
@pytest.mark.parametrize("stream", [False, True])
async def test_wherever_a_request_ends_nothing_is_held_and_it_is_charged_once_at_most(
    gate: Gate, sim: Sim, stream: bool, how: str
) -> None:
    bodies = [
        orjson.dumps(
            {
                "model": "small",
                "stream": stream,
                "messages": [{"role": "user", "content": f"hi\nsim: tokens=20 {pace}"}],
            }
        )
        # In turn: one whose end comes within the steps, one that is waited for whatever the machine does.
        for pace in ("", "ttft_ms=2")
    ]
    interrupted = 0
    stages: set[str] = set()
    for steps in range(MOST_STEPS):
        exchange = Stepped(bodies[steps % 2])
        task = asyncio.create_task(gate.service.flow(exchange))
        if await run_some_steps(task, steps):
            interrupted += 1
            [*running] = gate.live
            stages.update(run.progress.stage for run in running)
            if how == "left":
                exchange.leave()
            else:
                task.cancel()
        await asyncio.wait([task], timeout=5)
        assert task.done()
        await gate.settle_all()
        assert gate.live == set()
        assert await gate.held_nano() == 0, f"after {steps} steps"
    assert interrupted > 10, "it was cut in the middle, again and again"
    assert "sent" in stages

    events = await gate.events()
    ids = [event.reservation_id for event in events]
    assert len(set(ids)) == len(ids), "one terminal event each"
    assert await gate.settled_nano() == sum(event.amount_nano for event in events)
    served = {row.request_id for row in sim.provider.served.rows}
    assert served <= set(ids), "whatever the upstream heard of has its event"
    for event in events:
        if event.reservation_id not in served:
            assert event.kind == "release", "nothing was asked of the upstream"


async def test_a_reserve_whose_answer_was_not_awaited_leaves_no_hold(gate: Gate) -> None:
    """Cancelled is unknown: the hold may have been made (ledger.md, script rule 2)."""
    ledger: Any = gate.service.ledger.reserving
    working = ledger._runner.run
    made = asyncio.Event()

    async def run(script: Any, keys: Any, args: Any) -> Any:
        reply = await working(script, keys, args)
        if script.name == "reserve":
            made.set()
            await asyncio.Event().wait()  # the reply that nobody gets
        return reply

    ledger._runner.run = run
    body = orjson.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}]})
    task = asyncio.create_task(gate.service.flow(Stepped(body)))
    await made.wait()
    assert await gate.held_nano() > 0
    task.cancel()
    await asyncio.wait([task])
    event = await gate.one_event()
    assert (event.kind, event.amount_nano, await gate.held_nano()) == ("release", 0, 0)
