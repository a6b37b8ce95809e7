"""Simulated Anthropic messages and count_tokens, JSON and SSE.

Shapes: Anthropic API reference, "Messages" and "Streaming messages". `input_tokens` excludes
what was read from and written to the cache; `message_start` reports the input,
`message_delta` the cumulative output, thinking included.
"""

from typing import Any

import orjson

from loadtest.sim_answer import (
    ID_MARK,
    Built,
    Call,
    Frame,
    Made,
    json_answer,
    sse,
    token_text,
    whole_text,
    with_usage,
)
from loadtest.sim_request import Ask


def _usage(made: Made, output_tokens: int) -> dict[str, Any]:
    written = made.cache_write + made.cache_write_1h
    return {
        "input_tokens": made.input - made.cached - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": made.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": made.cache_write,
            "ephemeral_1h_input_tokens": made.cache_write_1h,
        },
        "output_tokens": output_tokens,
        "service_tier": made.tier or "standard",
    }


def _message(ask: Ask, content: list[Any], stop: str | None) -> dict[str, Any]:
    return {
        "id": "msg_" + ID_MARK,
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
    }


def _thinking(text: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": "c2ltdWxhdGVk" if text else ""}


def _tool_use(call: Call, arguments: str) -> dict[str, Any]:
    try:
        given = orjson.loads(arguments)
    except orjson.JSONDecodeError:  # the output maximum has cut them
        given = {}
    return {"type": "tool_use", "id": "toolu_" + ID_MARK, "name": call.name, "input": given}


def build_message(ask: Ask, made: Made) -> Built:
    """A message, JSON or SSE."""
    tokens = made.output + made.reasoning
    stop = "max_tokens" if made.truncated else "tool_use" if made.call else "end_turn"
    if not ask.stream:
        content: list[Any] = [_thinking(whole_text(made.reasoning))] if made.reasoning else []
        if made.call is not None:
            content.append(_tool_use(made.call, made.call.arguments))
        else:
            content.append({"type": "text", "text": whole_text(made.output)})
        document = _message(ask, content, stop)
        return json_answer(with_usage(document, _usage(made, tokens), made.usage_fault), tokens)

    frames: list[Frame] = []

    def event(kind: str, count: int = 0, **values: Any) -> None:
        frames.append(Frame(sse({"type": kind, **values}, kind), count))

    started = with_usage(_message(ask, [], None), _usage(made, 0), made.usage_fault)
    event("message_start", message=started)
    said = [token_text(place) for place in range(made.output)]
    blocks: list[tuple[list[str], dict[str, Any], str, str]]
    blocks = [(said, {"type": "text", "text": ""}, "text_delta", "text")]
    if made.call is not None:
        block = _tool_use(made.call, "{}")
        blocks = [(made.call.pieces(), block, "input_json_delta", "partial_json")]
    if made.reasoning:
        thought = [token_text(place) for place in range(made.reasoning)]
        blocks.insert(0, (thought, _thinking(""), "thinking_delta", "thinking"))
    for index, (pieces, block, kind, name) in enumerate(blocks):
        event("content_block_start", index=index, content_block=block)
        if index == 0:
            event("ping")
        for piece in pieces:
            delta = {"type": kind, name: piece}
            event("content_block_delta", 1, index=index, delta=delta)
        if name == "thinking":
            delta = {"type": "signature_delta", "signature": "c2ltdWxhdGVk"}
            event("content_block_delta", index=index, delta=delta)
        event("content_block_stop", index=index)
    ended = {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}}
    usage = {"output_tokens": tokens}
    frames.append(Frame(sse(with_usage(ended, usage, made.usage_fault), "message_delta")))
    event("message_stop")
    return Built("text/event-stream", tuple(frames))


def build_count(made: Made) -> Built:
    """The answer of count_tokens: free, and no tokens."""
    return json_answer({"input_tokens": made.input}, 0)
