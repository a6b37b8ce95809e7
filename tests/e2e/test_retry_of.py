"""A nameless retry of what was charged and not answered names the earlier request on its event."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.domain.events import Event
from tests.support.gate import KEY, Gate, Serve, running_gate
from tests.support.until import until
from tests.support.upstreams import Sim

SLOW = "hi\nsim: tokens=3 ttft_ms=400"


def chat(content: str, **fields: Any) -> dict[str, Any]:
    return {"model": "small", "messages": [{"role": "user", "content": content}], **fields}


async def leave(gate: Gate, content: str = SLOW, *, within_s: float = 0.15, **fields: Any) -> None:
    """Ask, and close the connection before the answer has come."""
    live = len(gate.live)
    patience = httpx.Timeout(10, read=within_s)
    async with httpx.AsyncClient(base_url=gate.url, timeout=patience) as hasty:
        with pytest.raises(httpx.TimeoutException):
            await hasty.post(
                "/v1/chat/completions", json=chat(content, **fields), headers=gate.headers
            )
    await until(lambda: len(gate.live) <= live, within_s=5)


async def settled(gate: Gate) -> list[Event]:
    await gate.settle_all()
    return [event for event in await gate.events() if event.amount_nano]


def retries(events: list[Event]) -> list[str | None]:
    return [event.facts["retry_of"] for event in events]


async def test_a_retry_after_the_client_left_names_it_and_a_third_does_not(
    gate: Gate, sim: Sim
) -> None:
    await leave(gate)
    for _ in range(2):
        assert (await gate.chat(SLOW)).status_code == 200
    events = await settled(gate)
    assert retries(events) == [None, events[0].facts["request_id"], None]
    assert len({event.amount_nano for event in events}) == 1, "each is charged"


async def test_another_body_is_not_a_retry(gate: Gate, sim: Sim) -> None:
    await leave(gate)
    assert (await gate.chat(SLOW + " input=9")).status_code == 200
    assert retries(await settled(gate)) == [None, None]


async def test_a_named_request_is_not_a_retry(gate: Gate, sim: Sim) -> None:
    await leave(gate)
    answer = await gate.post("/v1/chat/completions", chat(SLOW), {"idempotency-key": "new"})
    assert answer.status_code == 200
    assert retries(await settled(gate)) == [None, None]


async def test_a_stream_that_the_upstream_broke_off_was_charged_and_is_retried(
    gate: Gate, sim: Sim
) -> None:
    """The same body, that breaks off each time; then a retry of the retry."""
    broken = "hi\nsim: tokens=9 cut=3"
    for _ in range(3):
        await gate.chat(broken, stream=True)
        await gate.settle_all()
    first, second, third = await settled(gate)
    assert retries([first, second, third]) == [
        None,
        first.facts["request_id"],
        second.facts["request_id"],
    ]


async def test_what_was_released_is_not_named(serve: Serve, sim: Sim) -> None:
    """An upstream that cannot, and one that never answers: nothing was charged."""
    upstreams = {"sim": {"base_url": sim.url, "timeouts": {"head_ms": 300}}}
    async with serve(upstreams=upstreams) as gate:
        for failing in ("hi\nsim: status=503", "hi\nsim: hang=before_head"):
            for _ in range(2):
                assert (await gate.chat(failing)).status_code in (503, 504)
        await gate.settle_all()
        events = await gate.events()
        assert [event.kind for event in events] == ["release"] * 4
        assert retries(events) == [None] * 4
        assert await gate.store._client.exists("{cg}:unanswered") == 0, "nothing to share"


async def test_a_stream_that_ends_with_its_client_leaving_on_the_last_frame_was_answered(
    gate: Gate, sim: Sim
) -> None:
    content = "hi\nsim: tokens=3"
    for _ in range(2):
        client = openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=KEY)
        stream = await client.chat.completions.create(
            model="small", stream=True, messages=[{"role": "user", "content": content}]
        )
        async for chunk in stream:
            if chunk.choices[0].finish_reason:
                break
        await stream.close()
        await client.close()
        await until(lambda: not gate.live)
    assert retries(await settled(gate)) == [None, None]


async def test_the_official_sdk_that_lost_patience_is_charged_for_each_and_each_says_so(
    gate: Gate, sim: Sim
) -> None:
    sdk = openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=KEY, timeout=0.2)
    with pytest.raises(openai.APITimeoutError):
        await sdk.chat.completions.create(
            model="small", max_tokens=8, messages=[{"role": "user", "content": SLOW}]
        )
    await sdk.close()
    await until(lambda: not gate.live, within_s=5)
    events = sorted(await settled(gate), key=lambda event: event.facts["request_id"])
    ids = [event.facts["request_id"] for event in events]
    assert sim.provider.served.posts == len(events) == 3
    assert retries(events) == [None, ids[0], ids[1]]


async def test_a_retry_that_comes_to_another_gate_is_known_there(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    (tmp_path / "two").mkdir()
    async with (
        running_gate(tmp_path, valkey_socket, sim.url) as one,
        running_gate(tmp_path / "two", valkey_socket, sim.url, empty=False) as two,
    ):
        running = asyncio.create_task(leave(one))
        await until(lambda: two.service.retries._marks)
        assert one.live, "the first is still being read for its usage"
        assert (await two.chat(SLOW)).status_code == 200
        await running
        await until(lambda: not one.service.retries._marks)
        await one.settle_all()
        first, second = sorted(await settled(two), key=lambda e: str(e.facts["request_id"]))
        assert retries([first, second]) == [None, first.facts["request_id"]]
