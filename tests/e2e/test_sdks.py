"""A customer's official SDKs through the gate: a real llama.cpp server, and embeddings from the
simulated provider. What the SDK says was used is what the wallet was charged, to the token.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from gateway.domain.events import Event
from tests.support.gate import BROKE_KEY, KEY, Gate, running_gate
from tests.support.upstreams import Sim

INPUT, CACHED, OUTPUT = 1000, 100, 4000  # nano-credits a token, of the model `small`
HELLO: Any = [{"role": "user", "content": "Say hello."}]
Used = tuple[int, int, int]
"""Input tokens, those of them that were cached, and output tokens."""


def openai_client(gate: Gate, key: str = KEY) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=key)


def anthropic_client(gate: Gate, key: str = KEY) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=gate.url, api_key=key)


async def charged(gate: Gate, input_tokens: int, cached: int, output_tokens: int) -> Event:
    """The one event charges exactly these tokens, and so was the wallet."""
    event = await gate.one_event()
    assert event.facts["usage_source"] == "provider_reported"
    assert event.usage.get("input", 0) == input_tokens - cached
    assert event.usage.get("cache_read", 0) == cached
    assert event.usage["output"] == output_tokens
    nano = (input_tokens - cached) * INPUT + cached * CACHED + output_tokens * OUTPUT
    assert event.amount_nano == nano == await gate.settled_nano()
    assert await gate.held_nano() == 0
    return event


async def openai_chat(gate: Gate) -> Used:
    said = await openai_client(gate).chat.completions.create(
        model="small", max_tokens=4, messages=HELLO
    )
    assert said.choices[0].message.content
    assert said.usage is not None
    details = said.usage.prompt_tokens_details
    cached = (details.cached_tokens or 0) if details else 0
    return said.usage.prompt_tokens, cached, said.usage.completion_tokens


async def openai_stream_that_asks_for_usage(gate: Gate) -> Used:
    stream = await openai_client(gate).chat.completions.create(
        model="small",
        max_tokens=4,
        stream=True,
        stream_options={"include_usage": True},
        messages=HELLO,
    )
    usage = [chunk.usage async for chunk in stream][-1]
    assert usage is not None
    cached = (usage.prompt_tokens_details.cached_tokens or 0) if usage.prompt_tokens_details else 0
    return usage.prompt_tokens, cached, usage.completion_tokens


async def openai_responses(gate: Gate) -> Used:
    said = await openai_client(gate).responses.create(
        model="small", max_output_tokens=4, input="Say hello."
    )
    assert said.output_text
    assert said.usage is not None
    details = said.usage.input_tokens_details
    cached = (details.cached_tokens or 0) if details else 0
    return said.usage.input_tokens, cached, said.usage.output_tokens


async def anthropic_message(gate: Gate) -> Used:
    said = await anthropic_client(gate).messages.create(model="small", max_tokens=4, messages=HELLO)
    assert said.content
    cached = said.usage.cache_read_input_tokens or 0
    return said.usage.input_tokens + cached, cached, said.usage.output_tokens


async def anthropic_stream(gate: Gate) -> Used:
    async with anthropic_client(gate).messages.stream(
        model="small", max_tokens=4, messages=HELLO
    ) as stream:
        said = await stream.get_final_message()
    assert said.content
    cached = said.usage.cache_read_input_tokens or 0
    return said.usage.input_tokens + cached, cached, said.usage.output_tokens


async def openai_stream_that_does_not_ask(gate: Gate) -> None:
    stream = await openai_client(gate).chat.completions.create(
        model="small", max_tokens=4, stream=True, messages=HELLO
    )
    text = ""
    async for chunk in stream:
        assert chunk.usage is None
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert text
    event = await gate.one_event()
    assert event.facts["usage_source"] == "provider_reported"
    assert 1 <= event.usage["output"] <= 4
    assert event.amount_nano == await gate.settled_nano()


@pytest.mark.model
async def test_what_a_real_model_used_is_what_the_sdk_says_and_the_wallet_is_charged(
    tmp_path: Path, valkey_socket: Path, llama_server: str, subtests: pytest.Subtests
) -> None:
    timeouts = {"connect_ms": 2000, "head_ms": 60_000, "between_bytes_ms": 60_000}
    upstreams = {"sim": {"base_url": llama_server, "timeouts": timeouts}}
    asks: tuple[Callable[[Gate], Awaitable[Used | None]], ...] = (
        openai_chat,
        openai_stream_that_asks_for_usage,
        openai_stream_that_does_not_ask,
        openai_responses,
        anthropic_message,
        anthropic_stream,
    )
    for ask in asks:
        with subtests.test(ask.__name__):
            serving = running_gate(tmp_path, valkey_socket, llama_server, upstreams=upstreams)
            async with serving as gate:
                used = await ask(gate)
                if used is not None:
                    await charged(gate, *used)


async def test_embeddings(gate: Gate, sim: Sim) -> None:
    said = await openai_client(gate).embeddings.create(model="small", input=["one", "two"])
    assert len(said.data) == 2
    event = await gate.one_event()
    assert event.usage == {"input": said.usage.prompt_tokens}


async def test_responses_stream(gate: Gate, sim: Sim) -> None:
    stream = await openai_client(gate).responses.create(model="small", input="hi", stream=True)
    done = [event async for event in stream][-1]
    assert done.type == "response.completed"
    assert done.response.usage is not None
    event = await gate.one_event()
    assert event.usage["output"] == done.response.usage.output_tokens


async def test_counting_tokens_is_free(gate: Gate, sim: Sim) -> None:
    counted = await anthropic_client(gate).messages.count_tokens(
        model="small", messages=[{"role": "user", "content": "Say hello."}]
    )
    assert counted.input_tokens > 0
    event = await gate.one_event()
    assert (event.kind, event.amount_nano, event.estimated_amount_nano) == ("settle", 0, 0)


async def test_the_models_that_a_key_may_use_are_listed_to_both_sdks(gate: Gate) -> None:
    names = [model.id async for model in openai_client(gate).models.list()]
    assert sorted(names) == ["dear", "small"]
    names = [model.id async for model in anthropic_client(gate).models.list()]
    assert sorted(names) == ["dear", "small"]


async def test_both_sdks_take_402_for_final_and_do_not_retry(gate: Gate, sim: Sim) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        await openai_client(gate, BROKE_KEY).chat.completions.create(
            model="small", messages=[{"role": "user", "content": "hi"}]
        )
    assert refused.value.status_code == 402
    with pytest.raises(anthropic.APIStatusError) as refused_too:
        await anthropic_client(gate, BROKE_KEY).messages.create(
            model="small", max_tokens=8, messages=[{"role": "user", "content": "hi"}]
        )
    assert refused_too.value.status_code == 402
    decisions = gate.service.snapshot()["creditgate_decisions_total"]["samples"]
    assert [["deny", "insufficient_credits"], 2] in decisions, "one request each, no retries"


async def test_a_bad_key_raises_the_sdks_own_authentication_error(gate: Gate) -> None:
    with pytest.raises(openai.AuthenticationError):
        await openai_client(gate, "sk-wrong").models.list()
    with pytest.raises(anthropic.AuthenticationError):
        await anthropic_client(gate, "sk-wrong").messages.create(
            model="small", max_tokens=8, messages=[{"role": "user", "content": "hi"}]
        )


async def test_the_balance_is_shown_live_to_key_holders(gate: Gate, sim: Sim) -> None:
    before = (await gate.client.get("/v1/credits", headers=gate.headers)).json()["data"]
    assert (before["balance"], before["held"], before["usage"]) == ("10", "0", "0")
    await gate.chat("hi\nsim: tokens=5", max_tokens=8)
    event = await gate.one_event()
    after = (await gate.client.get("/v1/credits", headers=gate.headers)).json()["data"]
    assert float(before["balance"]) - float(after["balance"]) == pytest.approx(
        event.amount_nano / 1e9, abs=1e-12
    )
    assert after["limit_remaining"] == after["balance"]
