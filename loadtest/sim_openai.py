"""Simulated chat completions, completions and embeddings.

Shapes: OpenAI API reference, "Chat Completions" (object and chunk object), "Completions",
"Embeddings". `prompt_tokens` includes cached ones, `completion_tokens` the reasoning; with
`include_usage` every chunk has `usage: null` and one more chunk has empty choices and the
usage; vLLM's `continuous_usage_stats` puts the running usage into every chunk.
"""

import base64
import struct
from typing import Any

from loadtest.sim_answer import (
    CREATED_S,
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
from loadtest.sim_tools import CALL_ID


def usage_of(made: Made, completion_tokens: int, choices: int) -> dict[str, Any]:
    """The usage object after this many completion tokens, hidden ones included."""
    return {
        "prompt_tokens": made.input,
        "completion_tokens": completion_tokens,
        "total_tokens": made.input + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": made.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": min(made.reasoning * choices, completion_tokens),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def build_text(ask: Ask, made: Made) -> Built:
    """A chat completion or a completion, JSON or SSE."""
    return _stream(ask, made) if ask.stream else _whole(ask, made)


def _finish(made: Made) -> str:
    if made.truncated:
        return "length"
    return "tool_calls" if made.call else "stop"


def _tool_call(call: Call, arguments: str) -> dict[str, Any]:
    function = {"name": call.name, "arguments": arguments}
    return {"id": CALL_ID, "type": "function", "function": function}


def _base(ask: Ask, made: Made, *, chunk: bool) -> dict[str, Any]:
    if ask.kind == "chat":
        head: dict[str, Any] = {
            "id": "chatcmpl-" + ID_MARK,
            "object": "chat.completion" + ".chunk" * chunk,
        }
    else:
        head = {"id": "cmpl-" + ID_MARK, "object": "text_completion"}
    head |= {"created": CREATED_S, "model": ask.model, "system_fingerprint": "fp_simulated"}
    return {**head, "service_tier": made.tier} if made.tier else head


def _whole(ask: Ask, made: Made) -> Built:
    text = whole_text(made.output)
    choices: list[dict[str, Any]] = []
    for index in range(ask.choices):
        choice: dict[str, Any] = {"index": index}
        if ask.kind == "chat":
            message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
            if made.call is not None:
                calls = [_tool_call(made.call, made.call.arguments)]
                message = {**message, "content": None, "tool_calls": calls}
            choice["message"] = message
        else:
            choice["text"] = text
        choices.append({**choice, "logprobs": None, "finish_reason": _finish(made)})
    tokens = (made.output + made.reasoning) * ask.choices
    document = {**_base(ask, made, chunk=False), "choices": choices}
    usage = usage_of(made, tokens, ask.choices)
    return json_answer(with_usage(document, usage, made.usage_fault), tokens)


def _stream(ask: Ask, made: Made) -> Built:
    base = _base(ask, made, chunk=True)
    produced = made.reasoning * ask.choices

    def frame(choices: list[dict[str, Any]], tokens: int = 0, *, last: bool = False) -> Frame:
        document = {**base, "choices": choices}
        if last or ask.continuous_usage:
            usage = usage_of(made, produced, ask.choices)
            document = with_usage(document, usage, made.usage_fault)
        elif ask.include_usage:
            document["usage"] = None
        return Frame(sse(document), tokens)

    def choice(index: int, text: str | None, finish: str | None = None) -> dict[str, Any]:
        body: dict[str, Any] = {"index": index}
        if ask.kind == "chat":
            body["delta"] = {} if text is None else {"content": text}
        else:
            body["text"] = text or ""
        return {**body, "logprobs": None, "finish_reason": finish}

    frames: list[Frame] = []
    if ask.kind == "chat":
        for index in range(ask.choices):
            role = {"role": "assistant", "content": "", "refusal": None}
            frames.append(frame([{**choice(index, None), "delta": role}]))
    frames.extend([Frame(b"", 1)] * produced)
    if made.call is not None:
        for index in range(ask.choices):
            started = {"tool_calls": [{"index": 0, **_tool_call(made.call, "")}]}
            frames.append(frame([{**choice(index, None), "delta": started}]))
            for piece in made.call.pieces():
                produced += 1
                going = {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
                frames.append(frame([{**choice(index, None), "delta": going}], 1))
    for place in range(0 if made.call else made.output):
        for index in range(ask.choices):
            produced += 1
            frames.append(frame([choice(index, token_text(place))], 1))
    frames.extend(frame([choice(index, None, _finish(made))]) for index in range(ask.choices))
    if ask.include_usage:
        frames.append(frame([], last=True))
    frames.append(Frame(b"data: [DONE]\n\n"))
    return Built("text/event-stream", tuple(frames))


def build_embeddings(ask: Ask, made: Made) -> Built:
    """An embedding per input: the same small vector, as floats or base64 of little-endian float32."""
    vector = [round(1 / (place + 2), 6) for place in range(ask.dimensions)]
    value: Any = vector
    if ask.base64:
        value = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    document = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": value}
            for index in range(ask.inputs)
        ],
        "model": ask.model,
    }
    usage = {"prompt_tokens": made.input, "total_tokens": made.input}
    return json_answer(with_usage(document, usage, made.usage_fault), 0)
