"""Hosted calls, and the room that is held for them."""

import math
from decimal import Decimal
from typing import Any

import orjson
import pytest

from tests.support.metering import (
    CREDIT,
    PRICES,
    Case,
    How,
    charge,
    chat,
    chunk,
    expect_cost,
    gemini,
    sse,
)

CALL = {"tool_call": 10_000_000_000}
SEARCH = frozenset(
    {"web_search", "googleSearch", "urlContext", "codeExecution", "web_search_20250305"}
)


def test_a_chat_that_searched_the_web_pays_for_the_search() -> None:
    case = Case("openai_chat", {"web_search_options": {}}, prices={**PRICES, **CALL}, tools=SEARCH)
    answer = chat("See.", usage={"prompt_tokens": 100, "completion_tokens": 20})
    answer["choices"][0]["message"]["annotations"] = [
        {"type": "url_citation", "url_citation": {"url": "https://a", "title": "a"}}
    ] * 3
    expect_cost(case, answer, "0.0106")


@pytest.mark.parametrize("how", ["whole", "left", "broken", "killed"])
def test_a_search_is_paid_for_on_every_way_out(how: How) -> None:
    asks: dict[str, Any] = {"web_search_options": {}}
    case = Case("openai_chat", asks, stream=True, prices={**PRICES, **CALL}, tools=SEARCH)
    found = charge(case, [sse(chunk("words and words"))], how)
    assert found.outcome.usage["tool_call"] == 1
    unasked = Case(stream=True, prices={**PRICES, **CALL})
    assert "tool_call" not in charge(unasked, [sse(chunk("hi"))], how).outcome.usage


def grounded(queries: Any, **more: Any) -> dict[str, Any]:
    document = gemini({"text": "Found."}, **more)
    document["candidates"][0]["groundingMetadata"] = {"webSearchQueries": queries}
    return document


GEM_SEARCH = Case(
    "gemini_generate",
    {"tools": [{"googleSearch": {}}]},
    prices={"input": 0, "output": 0, "tool_call": 14_000_000_000},
    tools=SEARCH,
)
GEM_USAGE = {"promptTokenCount": 10, "candidatesTokenCount": 5}


@pytest.mark.parametrize(
    ("queries", "calls"),
    [
        (["a", "b", "a", ""], 2),
        ([], 0),
        (["a"], 1),
        (["a", " a ", None, 3], 1),
        ("a", 0),
        (None, 0),
    ],
)
@pytest.mark.parametrize("usage", [GEM_USAGE, None])
def test_each_distinct_query_is_one_call(queries: Any, calls: int, usage: Any) -> None:
    wanted = str(Decimal("0.014") * calls)
    expect_cost(GEM_SEARCH, grounded(queries, usage=usage), wanted)
    streamed = Case(**{**vars(GEM_SEARCH), "stream": True})
    chunks = [grounded(queries, usage=usage, reason=None), grounded(queries, usage=usage)]
    expect_cost(streamed, sse(*chunks), wanted)
    for how in ("left", "broken"):
        expect_cost(streamed, sse(chunks[0]), wanted, how)


def items(*statuses: str, action: str = "search") -> list[dict[str, Any]]:
    return [
        {"type": "web_search_call", "id": f"ws_{n}", "status": status, "action": {"type": action}}
        for n, status in enumerate(statuses)
    ]


RESPONSES = Case(
    "openai_responses",
    {"tools": [{"type": "web_search"}], "max_tool_calls": 5},
    prices={"input": 0, "output": 0, **CALL},
    tools=SEARCH,
)


def response_events(output: list[dict[str, Any]], *, last: bool = True) -> bytes:
    events: list[Any] = [{"type": "response.created", "response": {"id": "r"}}]
    for item in output:
        begun = {**item, "status": "in_progress", "action": None}
        events.append({"type": "response.output_item.added", "item": begun})
        events.append({"type": "response.web_search_call.searching", "item_id": item["id"]})
        how = "failed" if item["status"] == "failed" else "completed"
        events.append({"type": f"response.web_search_call.{how}", "item_id": item["id"]})
        events.append({"type": "response.output_item.done", "item": item})
    if last:
        usage = {"input_tokens": 10, "output_tokens": 5}
        response = {"id": "r", "status": "completed", "output": output, "usage": usage}
        events.append({"type": "response.completed", "response": response})
    return sse(*events)


@pytest.mark.parametrize(
    ("output", "calls"),
    [
        (items("completed"), 1),
        (items("completed", "completed", "failed"), 2),
        (items("failed"), 0),
        (items("completed", action="open_page"), 0),
        ([{"type": "function_call", "id": "f", "name": "f", "arguments": "{}", "status": "completed"}], 0),
    ],
)  # fmt: skip
def test_each_call_of_a_response_counts_once(output: list[dict[str, Any]], calls: int) -> None:
    wanted = str(Decimal("0.01") * calls)
    usage = {"input_tokens": 10, "output_tokens": 5}
    expect_cost(RESPONSES, {"status": "completed", "output": output, "usage": usage}, wanted)
    if output[0]["type"] == "web_search_call":
        streamed = Case(**{**vars(RESPONSES), "stream": True})
        expect_cost(streamed, response_events(output), wanted)
        expect_cost(streamed, response_events(output, last=False), wanted, "left")


def test_a_call_that_has_begun_is_paid_by_who_leaves() -> None:
    streamed = Case(**{**vars(RESPONSES), "stream": True})
    begun = response_events(items("completed"), last=False).split(b"\n\n")[:2]
    expect_cost(streamed, b"\n\n".join(begun) + b"\n\n", "0.01", "left")


def blocks(*failed: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for n, error in enumerate(failed):
        found.append({"type": "server_tool_use", "id": f"s{n}", "name": "web_search", "input": {}})
        content: Any = [] if not error else {"type": "web_search_tool_result_error"}
        result = {"type": "web_search_tool_result", "tool_use_id": f"s{n}", "content": content}
        found.append(result)
    return found


@pytest.mark.parametrize(
    ("content", "reported", "calls"),
    [
        (blocks(False), 1, 1),
        (blocks(False, True), 1, 1),
        (blocks(False, False), None, 2),
        (blocks(False, True), None, 1),
        (blocks(True), 0, 0),
        ([], 2, 2),
    ],
)
def test_searches_of_a_message(content: list[dict[str, Any]], reported: Any, calls: int) -> None:
    asks = {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]}
    prices = {"input": 0, "output": 0, **CALL}
    case = Case("anthropic_messages", asks, prices=prices, tools=SEARCH)
    usage: dict[str, Any] = {"input_tokens": 10, "output_tokens": 5}
    if reported is not None:
        usage["server_tool_use"] = {"web_search_requests": reported}
    wanted = str(Decimal("0.01") * calls)
    expect_cost(case, {"content": content, "stop_reason": "end_turn", "usage": usage}, wanted)
    events = [
        {"type": "content_block_start", "index": n, "content_block": block}
        for n, block in enumerate(content)
    ]
    start = {
        "type": "message_start",
        "message": {"usage": {"input_tokens": 10, "output_tokens": 1}},
    }
    last = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
    streamed = Case("anthropic_messages", asks, stream=True, prices=prices, tools=SEARCH)
    expect_cost(streamed, sse(start, *events, last), wanted)


def test_calls_that_were_only_seen_cost_at_most_what_is_held() -> None:
    queries = [f"query {n}" for n in range(40)]
    expect_cost(GEM_SEARCH, grounded(queries, usage=GEM_USAGE), str(Decimal("0.014") * 16))


@pytest.mark.parametrize("how", ["left", "broken", "whole"])
def test_room_for_hosted_tools_is_never_charged(how: How) -> None:
    asks = {"contents": [{"parts": [{"text": "q"}]}], "tools": [{"googleSearch": {}}]}
    prices = {**PRICES, "tool_call": 14_000_000_000}
    case = Case("gemini_generate", asks, stream=True, prices=prices, tools=SEARCH)
    found = charge(case, [sse(grounded(["a"], reason=None))], how)
    own = 16 + 16 + 8 + 1 + 2 * len('{"googleSearch":{}}')
    assert found.outcome.usage["input"] == math.ceil(own / 4)
    assert found.outcome.usage["tool_call"] == 1
    assert found.amount_nano < CREDIT // 50
    assert found.held_nano > CREDIT, "the hold has the room"


@pytest.mark.parametrize(
    ("case", "own"),
    [
        (Case("openai_chat", {"web_search_options": {}}), 16 + 16 + 4 + 5),
        (Case("openai_responses", {"tools": [{"type": "web_search"}], "max_tool_calls": 9}), 16 + 16 + 5),
        (Case("anthropic_messages", {"tools": [{"type": "web_search_20250305", "name": "w", "max_uses": 9}]}), 0),
        (Case("anthropic_messages", {"tools": [{"type": "bash_20250124", "name": "bash"}]}), 0),
        (Case("openai_chat", {"tools": [{"type": "function", "function": {"name": "f"}}]}), 0),
    ],
)  # fmt: skip
def test_what_is_counted_as_input_is_the_request_s_own_body(case: Case, own: int) -> None:
    priced = Case(**{**vars(case), "tools": SEARCH, "prices": {**PRICES, **CALL}})
    found = charge(priced, [orjson.dumps({"error": None})])
    tools = case.body.get("tools")
    most = own or 16 + 16 + 4 + 5 + 2 * len(orjson.dumps(tools))
    assert 0 < found.outcome.usage["input"] <= math.ceil((most + 64) / 4)
