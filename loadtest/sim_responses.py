"""Simulated OpenAI Responses, JSON and SSE.

Shapes: OpenAI API reference, "Responses" and "Streaming events". `input_tokens` includes the
cached ones, `output_tokens` the reasoning; the usage is in the event that ends the
stream, `response.completed` or, when `max_output_tokens` cut it, `response.incomplete`.
"""

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

_MESSAGE_ID = "msg_" + ID_MARK
_CALL_ITEM_ID = "fc_" + ID_MARK


def _usage(made: Made) -> dict[str, Any]:
    output = made.output + made.reasoning
    return {
        "input_tokens": made.input,
        "input_tokens_details": {"cached_tokens": made.cached},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": made.reasoning},
        "total_tokens": made.input + output,
    }


def _message(text: str, status: str) -> dict[str, Any]:
    return {
        "id": _MESSAGE_ID,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }


def _function_call(call: Call, arguments: str, status: str) -> dict[str, Any]:
    return {
        "id": _CALL_ITEM_ID,
        "type": "function_call",
        "status": status,
        "call_id": CALL_ID,
        "name": call.name,
        "arguments": arguments,
    }


def _reasoning() -> dict[str, Any]:
    return {"id": "rs_" + ID_MARK, "type": "reasoning", "summary": []}


def _response(ask: Ask, status: str, output: list[Any]) -> dict[str, Any]:
    incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
    return {
        "id": "resp_" + ID_MARK,
        "object": "response",
        "created_at": CREATED_S,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": incomplete,
        "instructions": None,
        "max_output_tokens": ask.max_output,
        "metadata": {},
        "model": ask.model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None,
    }


def _finished(ask: Ask, made: Made) -> dict[str, Any]:
    status = "incomplete" if made.truncated else "completed"
    output = [_reasoning()] if made.reasoning else []
    if made.call is not None:
        output.append(_function_call(made.call, made.call.arguments, status))
    else:
        output.append(_message(whole_text(made.output), status))
    document = _response(ask, status, output)
    if made.tier:
        document["service_tier"] = made.tier
    if made.usage_fault == "missing":
        del document["usage"]
    return with_usage(document, _usage(made), made.usage_fault)


def build_response(ask: Ask, made: Made) -> Built:
    """A response, JSON or SSE."""
    if not ask.stream:
        return json_answer(_finished(ask, made), made.output + made.reasoning)
    frames: list[Frame] = []

    def event(kind: str, tokens: int = 0, **values: Any) -> None:
        frames.append(
            Frame(sse({"type": kind, "sequence_number": len(frames), **values}, kind), tokens)
        )

    def spoken(place: int) -> None:
        where: dict[str, Any] = {"item_id": _MESSAGE_ID, "output_index": place, "content_index": 0}
        item = {**_message("", "in_progress"), "content": []}
        event("response.output_item.added", output_index=place, item=item)
        part = {"type": "output_text", "text": "", "annotations": []}
        event("response.content_part.added", **where, part=part)
        for index in range(made.output):
            text = token_text(index)
            event("response.output_text.delta", 1, **where, delta=text, logprobs=[])
        text = whole_text(made.output)
        event("response.output_text.done", **where, text=text, logprobs=[])
        event("response.content_part.done", **where, part={**part, "text": text})

    def called(call: Call, place: int) -> None:
        where: dict[str, Any] = {"item_id": _CALL_ITEM_ID, "output_index": place}
        item = _function_call(call, "", "in_progress")
        event("response.output_item.added", output_index=place, item=item)
        for piece in call.pieces():
            event("response.function_call_arguments.delta", 1, **where, delta=piece)
        event("response.function_call_arguments.done", **where, arguments=call.arguments)

    started = _response(ask, "in_progress", [])
    event("response.created", response=started)
    event("response.in_progress", response=started)
    place = 0
    hidden: list[Frame] = []
    if made.reasoning:
        event("response.output_item.added", output_index=0, item=_reasoning())
        hidden = [Frame(b"", 1)] * made.reasoning
        event("response.output_item.done", output_index=0, item=_reasoning())
        place = 1
    if made.call is not None:
        called(made.call, place)
    else:
        spoken(place)
    finished = _finished(ask, made)
    event("response.output_item.done", output_index=place, item=finished["output"][-1])
    event(f"response.{finished['status']}", response=finished)
    if hidden:
        # after the reasoning item was announced, before it is done; they carry no event, so the
        # sequence numbers stand
        frames[3:3] = hidden
    return Built("text/event-stream", tuple(frames))
