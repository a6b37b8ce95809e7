"""What an answer says of credit: in headers, and in comments at the end of a stream."""

import anthropic
import openai
import pytest

from tests.support.gate import KEY, Gate, Serve
from tests.support.upstreams import Sim

TRAILER = {"x-credits-trailer": "1"}


def nano(decimal: str) -> int:
    """A header's decimal of credits, exactly."""
    whole, _, rest = decimal.partition(".")
    return int(whole) * 10**9 + int(rest.ljust(9, "0"))


async def test_a_settled_answer_says_its_cost_and_the_balance_after_it(
    gate: Gate, sim: Sim
) -> None:
    answer = await gate.chat("hi\nsim: tokens=5", max_tokens=8)
    event = await gate.one_event()
    assert nano(answer.headers["x-credits-reserved"]) == event.estimated_amount_nano
    assert nano(answer.headers["x-credits-cost"]) == event.amount_nano
    assert nano(answer.headers["x-credits-remaining"]) == event.balance_nano
    assert len(answer.headers.get_list("x-credits-remaining")) == 1


async def test_a_stream_says_what_is_left_beside_its_hold(gate: Gate, sim: Sim) -> None:
    answer = await gate.chat("hi\nsim: tokens=5", stream=True)
    event = await gate.one_event()
    reserved = nano(answer.headers["x-credits-reserved"])
    assert reserved == event.estimated_amount_nano
    assert nano(answer.headers["x-credits-remaining"]) == 10 * 10**9 - reserved
    assert "x-credits-cost" not in answer.headers
    assert ": x-credits" not in answer.text


async def test_an_answer_that_is_not_settled_first_says_what_is_left_beside_its_hold(
    serve: Serve,
) -> None:
    policy = {"preset": "balanced", "answer_cost_header": False}
    async with serve(policy=policy) as gate:
        answer = await gate.chat("hi\nsim: tokens=5", max_tokens=8)
        reserved = nano(answer.headers["x-credits-reserved"])
        assert nano(answer.headers["x-credits-remaining"]) == 10 * 10**9 - reserved
        assert "x-credits-cost" not in answer.headers
        assert (await gate.one_event()).kind == "settle"


async def test_an_error_of_the_upstream_cost_nothing_and_says_so(gate: Gate, sim: Sim) -> None:
    answer = await gate.chat("hi\nsim: status=500")
    assert answer.headers["x-credits-cost"] == "0"
    assert answer.headers["x-credits-remaining"] == "10"


async def test_the_upstream_cannot_speak_for_the_gate(gate: Gate, sim: Sim) -> None:
    answer = await gate.chat("hi\nsim: tokens=5", max_tokens=8)
    assert answer.headers["x-request-id"] != answer.headers["x-upstream-request-id"]


async def test_who_asks_for_it_gets_the_cost_as_comments_at_a_stream_s_end(
    gate: Gate, sim: Sim
) -> None:
    body = {
        "model": "small",
        "stream": True,
        "messages": [{"role": "user", "content": "hi\nsim: tokens=5"}],
    }
    answer = await gate.post("/v1/chat/completions", body, headers=TRAILER)
    event = await gate.one_event()
    frames = answer.text.removesuffix("\n\n").split("\n\n")
    assert frames[-3] == "data: [DONE]"
    comments = dict(frame.removeprefix(": ").split(" ") for frame in frames[-2:])
    assert nano(comments["x-credits-cost"]) == event.amount_nano
    assert nano(comments["x-credits-remaining"]) == event.balance_nano


async def test_a_coded_stream_gets_no_comments(gate: Gate, sim: Sim) -> None:
    body = {
        "model": "small",
        "stream": True,
        "messages": [{"role": "user", "content": "hi\nsim: tokens=5 coding=gzip"}],
    }
    answer = await gate.post("/v1/chat/completions", body, headers=TRAILER)
    assert answer.text.endswith("data: [DONE]\n\n"), "decoded whole by the client"
    assert (await gate.one_event()).usage["output"] == 5


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_the_official_sdk_does_not_mind_the_comments(gate: Gate, sim: Sim, api: str) -> None:
    client = openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=KEY, max_retries=0)
    if api == "chat":
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="small",
                messages=[{"role": "user", "content": "hi\nsim: tokens=5"}],
                stream=True,
                stream_options={"include_usage": True},
                extra_headers=TRAILER,
            )
        ]
        assert chunks[-1].usage is not None
        output = chunks[-1].usage.completion_tokens
    else:
        stream = await client.responses.create(
            model="small", input="hi\nsim: tokens=5", stream=True, extra_headers=TRAILER
        )
        events = [event async for event in stream]
        assert events[-1].type == "response.completed"
        assert events[-1].response.usage is not None
        output = events[-1].response.usage.output_tokens
    assert output == 5
    assert (await gate.one_event()).usage["output"] == 5


async def test_the_anthropic_sdk_does_not_mind_them_either(gate: Gate, sim: Sim) -> None:
    client = anthropic.AsyncAnthropic(base_url=gate.url, api_key=KEY, max_retries=0)
    async with client.messages.stream(
        model="small",
        max_tokens=50,
        messages=[{"role": "user", "content": "hi\nsim: tokens=5"}],
        extra_headers=TRAILER,
    ) as stream:
        said = await stream.get_final_message()
    assert said.usage.output_tokens == 5
    assert (await gate.one_event()).usage["output"] == 5
