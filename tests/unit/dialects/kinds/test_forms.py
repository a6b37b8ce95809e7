"""Errors inside a 200, and streams and documents under the wrong label."""

from typing import Any

import orjson
import pytest

from tests.support.metering import DONE, USAGE, Case, chat, chunk, expect_cost, gemini, sse

ERRORS: list[dict[str, Any]] = [
    {"object": "error", "message": "too long", "code": 400},
    {"error": {"message": "too long", "code": 400}},
    {"error": "too long"},
    {"detail": "Not Found"},
    {"detail": [{"loc": ["body"], "msg": "field required"}]},
    {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}},
    {"type": "invalid_request_error", "message": "no"},
]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(
    "dialect", ["openai_chat", "openai_responses", "anthropic_messages", "gemini_generate"]
)
def test_an_error_instead_of_an_answer_costs_nothing(dialect: str, error: dict[str, Any]) -> None:
    asks = {"max_tokens": 1000} if dialect == "openai_chat" else {}
    stream = Case(dialect, asks, stream=True, preset="strict")
    document = Case(dialect, asks, preset="strict")
    bare = Case(dialect, asks, stream=True, preset="strict", label="text/event-stream")
    for case, answer in (
        (stream, sse(error, DONE)),
        (stream, sse(b"event: error\ndata: " + orjson.dumps(error))),
        (stream, sse(b"event: error\ndata: busy")),
        (stream, error),
        (bare, error),
        (document, error),
        (document, [error]),
    ):
        found = expect_cost(case, orjson.dumps(answer) if isinstance(answer, list) else answer, "0")
        assert found.outcome.verb == "release"


def test_an_error_after_output_pays_what_flowed() -> None:
    stream = sse(chunk("words and words"), {"error": {"message": "lost"}})
    found = expect_cost(Case(stream=True, preset="strict"), stream, "0.000093")
    assert not found.flags


def test_an_error_beside_usage_pays_the_usage() -> None:
    expect_cost(Case(), {"error": {"message": "stopped"}, "usage": USAGE}, "0.0105")


@pytest.mark.parametrize(
    "label", ["text/plain", "application/octet-stream", "application/json", "x"]
)
def test_a_stream_is_known_by_its_first_bytes(label: str) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 200}
    stream = sse(chunk("hi"), {"choices": [], "usage": usage}, DONE)
    for asked in (True, False):
        case = Case(stream=asked, label=label)
        assert not expect_cost(case, stream, "0.006").flags
        assert not expect_cost(case, b"\n\n: hello\n\n" + stream, "0.006").flags


@pytest.mark.parametrize("label", ["text/event-stream", "text/plain", "application/json"])
def test_a_document_is_known_by_its_first_bytes(label: str) -> None:
    for asked in (True, False):
        answer = b"\n " + orjson.dumps(chat(usage=USAGE))
        assert not expect_cost(Case(stream=asked, label=label), answer, "0.0105").flags


def test_gemini_s_array_is_a_stream_and_its_document_is_not() -> None:
    gem = {"promptTokenCount": 1000, "candidatesTokenCount": 500}
    case = Case("gemini_generate", stream=True, label="array")
    part = gemini({"text": "hi"}, usage=gem)
    for answer in (orjson.dumps([part]), orjson.dumps(part), sse(part)):
        assert not expect_cost(case, answer, "0.0105").flags
