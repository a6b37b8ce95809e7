"""The end of a wallet's credit: a stream that begins with what is left, and a clamped maximum."""

import asyncio
from typing import Any

import openai
import pytest

from gateway.domain.events import Event
from tests.support.gate import KEY, Gate, Serve, digest
from tests.support.until import until
from tests.support.upstreams import Sim

INPUT, OUTPUT = 1000, 4000  # nano-credits a token of the model `small`


def customers(amount: str) -> dict[str, Any]:
    """One customer with so much."""
    return {
        "acme": {
            "grants": [{"name": "start", "amount": amount, "category": "paid"}],
            "keys": [{"id": "k_acme", "sha256": digest(KEY)}],
        }
    }


async def ended(gate: Gate) -> list[Event]:
    await until(lambda: not gate.live)
    await gate.settle_all()
    events = await gate.events()
    assert await gate.held_nano() == 0
    assert await gate.settled_nano() == sum(event.amount_nano for event in events)
    wallet = (await gate.store.wallets.read(["acme"]))["acme"]
    assert wallet.overdraft_nano == 0
    return events


async def balance(gate: Gate) -> int:
    wallet = (await gate.store.wallets.read(["acme"]))["acme"]
    return wallet.balance_nano(await gate.store.now_ms())


# What is left


async def test_the_last_stream_begins_with_what_is_left_and_uses_it_to_the_token(
    serve: Serve,
) -> None:
    policy = {"preset": "balanced", "hold_output_tokens": 1000}
    async with serve(policy=policy, customers=customers("0.002")) as gate:
        answer = await gate.chat("hi\nsim: tokens=2000 itl_ms=1", stream=True)
        assert '"finish_reason":"error"' in answer.text
        [event] = await ended(gate)
        assert {"cut", "credit_exhausted"} <= set(event.facts["flags"])
        left = await balance(gate)
        held_input = 2_000_000 - event.usage["output"] * OUTPUT
        assert 0 <= left < held_input + OUTPUT, "nothing but what was held for the input"
        again = await gate.chat("hi\nsim: tokens=5", stream=True)
        assert again.status_code == 402, "less than the least"


async def test_one_that_needs_less_leaves_the_rest_to_the_next(serve: Serve) -> None:
    policy = {"preset": "balanced", "hold_output_tokens": 1000}
    async with serve(policy=policy, customers=customers("0.002")) as gate:
        for _ in range(3):
            answer = await gate.chat("hi\nsim: tokens=100", stream=True)
            assert answer.status_code == 200
            await gate.settle_all()
        assert [event.usage["output"] for event in await ended(gate)] == [100] * 3


async def test_while_another_runs_a_request_is_told_to_wait_not_to_pay(
    serve: Serve, sim: Sim
) -> None:
    policy = {"preset": "balanced", "hold_output_tokens": 1000}
    async with serve(policy=policy, customers=customers("0.002")) as gate:
        first = asyncio.create_task(gate.chat("hi\nsim: tokens=100 itl_ms=5", stream=True))
        await until(lambda: sim.provider.served.posts == 1)
        refused = await gate.chat("hi\nsim: tokens=5", stream=True)
        assert refused.status_code == 429
        assert refused.json()["error"]["metadata"]["reason"] == "credit_held"
        assert (await first).status_code == 200
        assert len(await ended(gate)) == 1


@pytest.mark.parametrize("policy", [{"preset": "strict"}, {"preset": "balanced"}])
async def test_what_promises_its_whole_bound_is_refused_as_ever(
    serve: Serve, sim: Sim, policy: dict[str, Any]
) -> None:
    stream = policy["preset"] == "strict"  # and balanced holds all of a JSON answer
    async with serve(policy=policy, customers=customers("0.002")) as gate:
        assert (await gate.chat("hi", stream=stream, max_tokens=1000)).status_code == 402
        assert sim.provider.served.posts == 0


# Clamped


CLAMP = {"preset": "balanced", "clamp": True, "least_hold_output_tokens": 50}
ASKED = "hi\nsim: tokens=3000"


async def asked_in(gate: Gate, api: str, stream: bool, **fields: Any) -> Any:
    """A request for far more than the wallet can pay."""
    body: dict[str, Any] = {"model": "small", "stream": stream, **fields}
    match api:
        case "chat":
            body |= {"max_tokens": 3000, "messages": [{"role": "user", "content": ASKED}]}
        case "chat_completion_tokens":
            body |= {
                "max_completion_tokens": 3000,
                "messages": [{"role": "user", "content": ASKED}],
            }
        case "completions":
            body |= {"max_tokens": 3000, "prompt": ASKED}
        case "responses":
            body |= {"max_output_tokens": 3000, "input": ASKED}
        case "messages":
            body |= {"max_tokens": 3000, "messages": [{"role": "user", "content": ASKED}]}
    path = {"chat_completion_tokens": "chat/completions", "chat": "chat/completions"}.get(api, api)
    return await gate.post(f"/v1/{path}", body)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "api", ["chat", "chat_completion_tokens", "completions", "responses", "messages"]
)
async def test_the_maximum_is_lowered_to_what_the_wallet_pays_and_said(
    serve: Serve, api: str, stream: bool
) -> None:
    async with serve(policy=CLAMP, customers=customers("0.002")) as gate:
        answer = await asked_in(gate, api, stream)
        assert answer.status_code == 200, answer.text
        maximum = int(answer.headers["x-credits-max-tokens"])
        [event] = await ended(gate)
        assert event.usage["output"] == maximum, "the upstream had it, and stopped there"
        assert "clamped" in event.facts["flags"]
        assert event.facts["finish_reason"] != "error"
        assert event.estimated_amount_nano <= 2_000_000 < event.estimated_amount_nano + OUTPUT


async def test_every_name_of_the_maximum_is_lowered(serve: Serve) -> None:
    async with serve(policy=CLAMP, customers=customers("0.002")) as gate:
        answer = await asked_in(gate, "chat", False, max_completion_tokens=2500)
        [event] = await ended(gate)
        assert event.usage["output"] == int(answer.headers["x-credits-max-tokens"])


async def test_several_choices_share_what_there_is(serve: Serve) -> None:
    async with serve(policy=CLAMP, customers=customers("0.004")) as gate:
        answer = await asked_in(gate, "chat", False, n=3)
        maximum = int(answer.headers["x-credits-max-tokens"])
        [event] = await ended(gate)
        assert event.estimated_amount_nano <= 4_000_000
        assert event.estimated_amount_nano + 3 * OUTPUT > 4_000_000
        assert 200 < maximum < 333


async def test_what_the_wallet_can_pay_is_not_lowered(serve: Serve) -> None:
    async with serve(policy=CLAMP) as gate:
        answer = await asked_in(gate, "chat", True)
        assert "x-credits-max-tokens" not in answer.headers
        [event] = await ended(gate)
        assert (event.usage["output"], event.facts["flags"]) == (3000, [])


async def test_less_than_the_least_is_402_and_the_upstream_hears_nothing(
    serve: Serve, sim: Sim
) -> None:
    async with serve(policy=CLAMP, customers=customers("0.00024")) as gate:
        assert (await asked_in(gate, "chat", False)).status_code == 402
        assert sim.provider.served.posts == 0


async def test_without_the_policy_nothing_is_ever_lowered(serve: Serve) -> None:
    async with serve(customers=customers("0.002")) as gate:
        assert (await asked_in(gate, "chat", False)).status_code == 402


async def test_the_official_sdk_sees_a_clamped_answer_end_by_its_length(serve: Serve) -> None:
    async with serve(policy=CLAMP, customers=customers("0.002")) as gate:
        client = openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=KEY, max_retries=0)
        raw = await client.chat.completions.with_raw_response.create(
            model="small", max_tokens=3000, messages=[{"role": "user", "content": ASKED}]
        )
        completion = raw.parse()
        assert completion.choices[0].finish_reason == "length"
        assert completion.usage is not None
        assert completion.usage.completion_tokens == int(raw.headers["x-credits-max-tokens"])


# What is expected


async def test_a_stream_holds_what_answers_were_once_enough_have_ended(serve: Serve) -> None:
    policy = {"preset": "balanced", "hold_output_tokens": 2000}
    async with serve(policy=policy) as gate:
        reserved = []
        for count in (50, 1):
            for _ in range(count):
                answer = await gate.chat("hi\nsim: tokens=100", stream=True, max_tokens=3000)
                reserved.append(round(float(answer.headers["x-credits-reserved"]) * 1e9))
                await gate.settle_all()
        assert set(reserved[:50]) == {reserved[0]}
        saved, odd = divmod(reserved[0] - reserved[50], OUTPUT)
        assert odd == 0
        assert 100 <= 2000 - saved <= 110
