"""Simulated Gemini generateContent, streamGenerateContent and countTokens.

Shapes: Gemini API reference, "Generating content". The path names the model. `promptTokenCount`
includes the cached tokens, `thoughtsTokenCount` is not part of `candidatesTokenCount`, and every chunk of
a stream reports the usage so far. A stream is events (`alt=sse`, lines end in CRLF) or one JSON array.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from loadtest.sim_answer import (
    ID_MARK,
    Built,
    Call,
    Frame,
    Made,
    json_answer,
    token_text,
    whole_text,
    with_usage,
)
from loadtest.sim_request import Ask, BadAsk
from loadtest.sim_tools import brings_result, offered_tools

_PATH: Final = re.compile(
    r"/v1(?:beta)?/models/([^/:]+):(generateContent|streamGenerateContent|countTokens)"
)
PREFIX: Final = "gemini"

_STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


def gemini_kind(path: str, query: str) -> str | None:
    """The kind of a request to this path, with all that the path says of it; None for others."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    model, verb = match.groups()
    form = "sse" if query == "alt=sse" else "array"
    return " ".join(
        (PREFIX, {"generateContent": "whole", "countTokens": "count"}.get(verb, form), model)
    )


def read_gemini_ask(kind: str, document: Mapping[str, Any]) -> tuple[Ask, str]:
    """What this body asks for, and the text of its last part. Raises BadAsk."""
    _, form, model = kind.split(" ")
    inner = document.get("generateContentRequest") or document
    contents = inner.get("contents")
    if not isinstance(contents, list) or not contents:
        raise BadAsk("contents: at least one content is required")
    parts = [
        part
        for content in (inner.get("systemInstruction") or {}, *contents)
        for part in content.get("parts", ())
    ]
    texts = [part["text"] for part in parts if "text" in part]
    config = inner.get("generationConfig") or {}
    length = sum(len(text.encode()) for text in texts)
    ask = Ask(
        kind=f"{PREFIX}_{form}",
        model=model,
        stream=form in ("sse", "array"),
        input_tokens=max(1, -(-length // 4)),
        max_output=config.get("maxOutputTokens"),
        choices=config.get("candidateCount") or 1,
        tools=offered_tools(inner),
        brings_result=brings_result(inner),
    )
    return ask, texts[-1] if texts else ""


def gemini_error(status: int, message: str) -> dict[str, Any]:
    """An error as Google writes it."""
    word = _STATUSES.get(status, "INTERNAL")
    return {"error": {"code": status, "message": message, "status": word}}


def _usage(made: Made, candidates: int, thoughts: int) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "promptTokenCount": made.input,
        "totalTokenCount": made.input + candidates + thoughts,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": made.input}],
    }
    if candidates:
        usage["candidatesTokenCount"] = candidates
    if thoughts:
        usage["thoughtsTokenCount"] = thoughts
    if made.cached:
        usage["cachedContentTokenCount"] = made.cached
    return usage


def _candidate(index: int, said: str | Call | None, finish: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model"}, "index": index}
    if isinstance(said, Call):
        call = {"name": said.name, "args": _arguments(said)}
        candidate["content"]["parts"] = [{"functionCall": call}]
    elif said is not None:
        candidate["content"]["parts"] = [{"text": said}]
    if finish is not None:
        candidate["finishReason"] = finish
    return candidate


def _arguments(call: Call) -> Any:
    """Gemini sends arguments as an object, and none where they were cut."""
    try:
        return orjson.loads(call.arguments)
    except orjson.JSONDecodeError:
        return {}


def _document(ask: Ask, candidates: list[dict[str, Any]]) -> dict[str, Any]:
    return {"candidates": candidates, "modelVersion": ask.model, "responseId": "resp_" + ID_MARK}


def build_gemini(ask: Ask, made: Made) -> Built:
    """An answer: whole, streamed in either form, or a count."""
    if ask.kind == f"{PREFIX}_count":
        return json_answer({"totalTokens": made.input}, 0)
    finish = "MAX_TOKENS" if made.truncated else "STOP"
    tokens, thoughts = made.output * ask.choices, made.reasoning * ask.choices
    if not ask.stream:
        words = made.call or whole_text(made.output)
        said = [_candidate(at, words, finish) for at in range(ask.choices)]
        usage = _usage(made, tokens, thoughts)
        document = with_usage(_document(ask, said), usage, made.usage_fault, "usageMetadata")
        return json_answer(document, tokens + thoughts)
    return _stream(ask, made, finish)


def _stream(ask: Ask, made: Made, finish: str) -> Built:
    thoughts = made.reasoning * ask.choices
    chunks: list[tuple[dict[str, Any], int]] = []
    produced = 0
    if made.call is not None:
        for index in range(ask.choices):
            produced += made.output
            usage = _usage(made, produced, thoughts)
            called = _document(ask, [_candidate(index, made.call, finish)])
            chunk = with_usage(called, usage, made.usage_fault, "usageMetadata")
            chunks.append((chunk, made.output))
    for place in range(0 if made.call else made.output):
        for index in range(ask.choices):
            produced += 1
            last = place + 1 == made.output
            said = [_candidate(index, token_text(place), finish if last else None)]
            usage = _usage(made, produced, thoughts)
            chunk = with_usage(_document(ask, said), usage, made.usage_fault, "usageMetadata")
            chunks.append((chunk, 1))
    if not made.output:
        ended = _document(ask, [_candidate(at, None, finish) for at in range(ask.choices)])
        usage = _usage(made, 0, thoughts)
        chunks.append((with_usage(ended, usage, made.usage_fault, "usageMetadata"), 0))
    frames = [Frame(b"", 1)] * thoughts
    if ask.kind == f"{PREFIX}_sse":
        frames += [Frame(b"data: %b\r\n\r\n" % orjson.dumps(c), n) for c, n in chunks]
        return Built("text/event-stream", tuple(frames))
    for at, (chunk, count) in enumerate(chunks):
        frames.append(Frame((b"," if at else b"[") + orjson.dumps(chunk) + b"\r\n", count))
    return Built("application/json; charset=UTF-8", (*frames, Frame(b"]")))
