"""A tool call and its result through the gate, by the official SDKs, unmodified: the model asks for
the tide, the client looks it up, the model answers. Each of the two requests is charged what the SDK
was told.
"""

import json
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import types

from tests.support.gate import KEY, Gate
from tests.support.upstreams import Sim

ASK = 'How is the tide?\nsim: tool=tide args={"city":"Emden"} tokens=6'
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
INPUT, OUTPUT = 1000, 4000  # nano-credits a token, of the model `small`


def tide(city: str) -> str:
    """The tide in a city."""
    return f"low in {city}"


async def charged(gate: Gate, tokens: list[tuple[int, int]]) -> None:
    """One event for each request, with these tokens of input and output."""
    await gate.settle_all()
    events = await gate.events()
    assert [(e.usage["input"], e.usage["output"]) for e in events] == tokens
    assert {e.facts["usage_source"] for e in events} == {"provider_reported"}
    assert await gate.settled_nano() == sum(i * INPUT + o * OUTPUT for i, o in tokens)
    assert await gate.held_nano() == 0


def openai_client(gate: Gate) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=KEY)


@pytest.mark.parametrize("stream", [False, True])
async def test_openai_chat(gate: Gate, sim: Sim, stream: bool) -> None:
    client = openai_client(gate)
    messages: list[Any] = [{"role": "user", "content": ASK}]
    tools: list[Any] = [{"type": "function", "function": {"name": "tide", "parameters": SCHEMA}}]
    used = []
    result = ""
    for _ in range(2):
        given: Any = {"model": "small", "max_completion_tokens": 99, "messages": messages}
        if stream:
            async with client.chat.completions.stream(
                **given, tools=tools, stream_options={"include_usage": True}
            ) as running:
                said: Any = await running.get_final_completion()
        else:
            said = await client.chat.completions.create(**given, tools=tools)
        assert said.usage is not None
        used.append((said.usage.prompt_tokens, said.usage.completion_tokens))
        message = said.choices[0].message
        if message.tool_calls:
            [call] = message.tool_calls
            assert call.type == "function"
            assert (said.choices[0].finish_reason, call.function.name) == ("tool_calls", "tide")
            result = tide(**json.loads(call.function.arguments))
            messages += [
                message.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": call.id, "content": result},
            ]
    assert result == "low in Emden"
    assert message.content
    await charged(gate, used)


@pytest.mark.parametrize("stream", [False, True])
async def test_openai_responses(gate: Gate, sim: Sim, stream: bool) -> None:
    client = openai_client(gate)
    items: list[Any] = [{"role": "user", "content": ASK}]
    function = {"type": "function", "name": "tide", "parameters": SCHEMA, "strict": True}
    tools: list[Any] = [{"type": "namespace", "name": "sea", "tools": [function]}, function]
    used = []
    result = ""
    for _ in range(2):
        given: Any = {"model": "small", "max_output_tokens": 99, "input": items, "tools": tools}
        if stream:
            async with client.responses.stream(**given) as running:
                said: Any = await running.get_final_response()
        else:
            said = await client.responses.create(**given)
        assert said.usage is not None
        used.append((said.usage.input_tokens, said.usage.output_tokens))
        for item in said.output:
            if item.type == "function_call":
                assert item.name == "tide"
                result = tide(**json.loads(item.arguments))
                call = {"type": "function_call", "call_id": item.call_id}
                items += [
                    {**call, "name": item.name, "arguments": item.arguments},
                    {**call, "type": "function_call_output", "output": result},
                ]
    assert result == "low in Emden"
    assert said.output_text
    await charged(gate, used)


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropic(gate: Gate, sim: Sim, stream: bool) -> None:
    client = anthropic.AsyncAnthropic(base_url=gate.url, api_key=KEY)
    messages: list[Any] = [{"role": "user", "content": ASK}]
    tools: list[Any] = [{"name": "tide", "input_schema": SCHEMA}]
    clearing = {"edits": [{"type": "clear_tool_uses_20250919"}]}
    used = []
    result = ""
    for _ in range(2):
        given: Any = {
            "model": "small",
            "max_tokens": 99,
            "messages": messages,
            "tools": tools,
            "metadata": {"user_id": "u-1"},
            "extra_body": {"context_management": clearing},
        }
        if stream:
            async with client.messages.stream(**given) as running:
                said: Any = await running.get_final_message()
        else:
            said = await client.messages.create(**given)
        used.append((said.usage.input_tokens, said.usage.output_tokens))
        for block in said.content:
            if block.type == "tool_use":
                assert said.stop_reason == "tool_use"
                result = tide(**block.input)
                answer = {"type": "tool_result", "tool_use_id": block.id, "content": result}
                messages += [
                    {"role": "assistant", "content": said.content},
                    {"role": "user", "content": [answer]},
                ]
    assert result == "low in Emden"
    assert said.content[0].type == "text"
    await charged(gate, used)
    for row in sim.provider.served.rows:
        document = json.loads(row.body or "")
        assert document["context_management"] == clearing
        assert document["metadata"]["user_id"].endswith("-u-1")


@pytest.mark.parametrize("stream", [False, True])
async def test_google_genai(gate: Gate, sim: Sim, stream: bool) -> None:
    client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=gate.url))
    looked_up = []

    def tide(city: str) -> str:
        """The tide in a city."""
        looked_up.append(city)
        return f"low in {city}"

    # The SDK itself runs the function and sends its result.
    given: Any = {
        "model": "small",
        "contents": ASK,
        "config": types.GenerateContentConfig(tools=[tide], max_output_tokens=99),
    }
    if stream:
        pieces = await client.aio.models.generate_content_stream(**given)
        text = "".join([piece.text or "" async for piece in pieces])
    else:
        text = (await client.aio.models.generate_content(**given)).text or ""
    assert looked_up == ["Emden"]
    assert text
    await gate.settle_all()
    first, second = await gate.events()
    assert first.usage["output"] == 4  # {"city":"Emden"}, four characters a token
    assert second.usage["output"] > 0
    assert await gate.settled_nano() == first.amount_nano + second.amount_nano
