"""The straight readings find what the general ones find, in every document that they accept."""

import json
import math
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.dialects.anthropic.complete_message import read_message
from gateway.dialects.anthropic.reader import MessagesReader
from gateway.dialects.base import AnswerFacts, BadRequest, ReadOptions, RequestFacts
from gateway.dialects.fields import SCOPED, STATEFUL
from gateway.dialects.openai.chat import OUTPUT_COUNTS, UNPROMPTED, read_any
from gateway.dialects.openai.chat_completion import read_completion
from gateway.dialects.openai.chat_reader import ChatReader
from gateway.dialects.openai.plain_request import PLAIN, read_plain
from gateway.dialects.reading.meters import DocumentMeter, read_document
from gateway.dialects.reading.reader import AnswerReader
from gateway.dialects.reading.strict_json import require_object
from tests.unit.dialects.provider_model import Writer

CALL = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
MEMBERS: dict[str, Any] = {
    "usage": None,
    "error": {"message": "no"},
    "type": "server_error",
    "detail": "no",
    "x_groq": {"usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}},
    "service_tier": "priority",
    "text": "said",
    "reasoning_content": "thought",
    "tool_calls": [CALL],
    "function_call": None,
    "audio": {"data": "QQ=="},
    "refusal": "I can't.",
    "content": None,
    "choices": [],
    "object": "error",
    "finish_reason": "error",
    "cached_tokens": 3,
    "completion_tokens": 0,
    "prompt_tokens": 0,
    "total_tokens": 20,
    "reasoning_tokens": 2,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 1, "audio_tokens": 0},
}
"""Members that mean something in one place or another."""

VALUES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            False,
            0,
            1,
            -1,
            10,
            2**40,
            0.0,
            1.5,
            -2.5,
            "",
            "7",
            "x",
            "é😀",
            "auto",
            "error",
        ]
    ),
    st.sampled_from(["default", "x" * 300, [], {}, [None], ["x"], [{}], {"a": 1}, "stop"]),
    st.sampled_from(list(MEMBERS.values())),
    st.text(max_size=40),
    st.integers(-5, 2 * 10**9),
)


def completion() -> dict[str, Any]:
    """A chat completion as OpenAI sends it."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "some words",
        "refusal": None,
        "annotations": [],
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 6,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "accepted_prediction_tokens": 0},
    }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m-2026",
        "choices": [choice],
        "usage": usage,
        "service_tier": "default",
        "system_fingerprint": "fp",
    }


def containers(value: Any) -> list[Any]:
    """All objects and lists in a document, itself included."""
    found, todo = [], [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict | list):
            found.append(item)
            todo.extend(item.values() if isinstance(item, dict) else item)
    return found


@st.composite
def mutated(draw: st.DrawFn, ordinary: Callable[[], Any], members: dict[str, Any] = MEMBERS) -> Any:
    """An ordinary document with up to four changes: members replaced, removed, added; items repeated."""
    document = ordinary()
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.sampled_from(containers(document)))
        if isinstance(place, list):
            change = draw(st.sampled_from(["append", "again", "clear"]))
            if change == "append":
                place.append(json.loads(json.dumps(draw(VALUES))))
            elif change == "again":
                place.extend(json.loads(json.dumps(place[:1])))
            else:
                place.clear()
            continue
        names = [*place, *members, "unknown"]
        name = draw(st.sampled_from(names))
        change = draw(st.sampled_from(["replace", "member", "remove"]))
        if change == "remove":
            place.pop(name, None)
        elif change == "member":
            place[name] = json.loads(json.dumps(members.get(name)))
        else:
            place[name] = json.loads(json.dumps(draw(VALUES)))
    return document


def general_facts(document: Any, reader: AnswerReader | None = None) -> AnswerFacts:
    """What the general reader finds, that of chat where none is given."""
    reader = reader or ChatReader()
    read_document(document, reader)
    return reader.facts


def check_completion(document: Any) -> bool:
    """Whether the straight reading accepts a document; its facts are then the general reader's."""
    facts = AnswerFacts()
    accepted = read_completion(document, facts)
    assert facts == (general_facts(document) if accepted else AnswerFacts())
    return accepted


@settings(deadline=None)
@given(mutated(completion))
@example(completion())
def test_a_straight_completion_reads_like_any_other(document: Any) -> None:
    check_completion(document)
    meter = DocumentMeter(ChatReader, read_completion)
    data = orjson.dumps(document)
    meter.feed(data[:9])
    meter.feed(data[9:])
    meter.finish()
    assert meter.facts == general_facts(document)


@pytest.mark.parametrize(
    ("place", "members"),
    [
        ((), {}),
        ((), {"service_tier": None}),
        ((), {"service_tier": "flex"}),
        ((), {"prompt_logprobs": None}),
        (("usage",), {"completion_tokens": 0, "total_tokens": 10}),
        (("usage",), {"completion_tokens": -1}),
        (("usage",), {"prompt_tokens": 10**12}),
        (("usage",), {"prompt_tokens_details": {"cached_tokens": 4}}),
        (("usage",), {"prompt_tokens_details": {"cached_tokens": 10, "audio_tokens": None}}),
        (("usage",), {"prompt_tokens_details": {"cached_tokens": 11}}),
        (("usage",), {"prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 1}}),
        (("usage",), {"completion_tokens_details": {"reasoning_tokens": 6}}),
        (("usage",), {"completion_tokens_details": {"reasoning_tokens": True}}),
        (("usage",), {"completion_tokens_details": [1]}),
        (("usage",), {"total_tokens": 99}),
        (("choices", 0, "message"), {"content": ""}),
        (("choices", 0, "message"), {"content": None, "tool_calls": [CALL]}),
        (("choices", 0, "message"), {"content": None, "refusal": "I can't."}),
        (("choices", 0, "message"), {"content": "日本語"}),
        (("choices", 0, "message"), {"reasoning_content": "thought", "tool_calls": []}),
    ],
)
def test_ordinary_completions_are_read_straight(
    place: tuple[str | int, ...], members: dict[str, Any]
) -> None:
    document = inner = completion()
    for name in place:
        inner = inner[name]  # type: ignore[index]
    inner.update(members)
    assert check_completion(document)


@pytest.mark.parametrize(
    "document",
    [None, 1, "x", [], {}, [completion()], {**completion(), "choices": [1]}, {"choices": "x"}],
)
def test_other_documents_are_not(document: Any) -> None:
    assert not check_completion(document)


def test_providers_answers_read_alike() -> None:
    accepted = 0
    for seed in range(4000):
        truth = Writer(seed, most_bytes=2000).answer()
        if truth.dialect != "openai_chat" or truth.stream:
            continue
        try:
            document = orjson.loads(truth.answer)
        except orjson.JSONDecodeError:
            continue
        head = {"id": "c", "object": "chat.completion", "model": "m"}
        accepted += check_completion({**head, **document})
    assert accepted > 50


def test_what_is_no_json_is_left_to_the_reader() -> None:
    data = json.dumps({**completion(), "x": math.nan}).encode()
    meter = DocumentMeter(ChatReader, read_completion)
    assert meter.feed(data) == data
    meter.finish()
    assert meter.facts == general_facts(completion())


# Messages


def message() -> dict[str, Any]:
    """A message as Anthropic sends it."""
    usage = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 6,
        "service_tier": "standard",
    }
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "some words"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }


def check_message(document: Any) -> bool:
    """Whether the straight reading accepts a message; its facts are then the general reader's."""
    facts = AnswerFacts()
    accepted = read_message(document, facts)
    assert facts == (general_facts(document, MessagesReader()) if accepted else AnswerFacts())
    return accepted


MESSAGE_MEMBERS: dict[str, Any] = {
    "type": "server_tool_use",
    "name": "web_search",
    "content": {"type": "web_search_tool_result_error"},
    "text": "more",
    "thinking": "hm",
    "input": {"a": [1, "b"]},
    "stop_reason": None,
    "cache_read_input_tokens": 5,
    "cache_creation_input_tokens": 7,
    "ephemeral_1h_input_tokens": 7,
    "server_tool_use": {"web_search_requests": 2},
    "output_tokens_details": {"thinking_tokens": 2},
    "output_tokens": 0,
    "error": "no",
    "object": "error",
    "detail": "no",
    "usage": None,
}


@settings(deadline=None)
@given(mutated(message, MESSAGE_MEMBERS))
@example(message())
def test_a_straight_message_reads_like_any_other(document: Any) -> None:
    check_message(document)


@pytest.mark.parametrize(
    ("place", "members"),
    [
        ((), {}),
        (("usage",), {"cache_read_input_tokens": 5, "cache_creation_input_tokens": 7}),
        (("usage",), {"cache_read_input_tokens": None, "server_tool_use": None}),
        (("usage",), {"cache_creation": {"ephemeral_1h_input_tokens": 7}}),
        (("usage",), {"output_tokens": 0}),
        (("usage",), {"input_tokens": -1}),
        (("usage",), {"server_tool_use": {"web_search_requests": 2}}),
        (("content", 0), {"text": ""}),
        (("content", 0), {"type": "tool_use", "name": "f", "input": {"a": 1}}),
    ],
)
def test_ordinary_messages_are_read_straight(
    place: tuple[str | int, ...], members: dict[str, Any]
) -> None:
    document = inner = message()
    for name in place:
        inner = inner[name]  # type: ignore[index]
    inner.update(members)
    assert check_message(document)


@pytest.mark.parametrize("kind", ["server_tool_use", "web_search_tool_result", "error"])
def test_messages_with_hosted_calls_are_not(kind: str) -> None:
    document = message()
    document["content"].append({"type": kind, "id": "x"})
    assert not check_message(document)


# Chunks


def some_chunk() -> dict[str, Any]:
    """A chunk as OpenAI sends it."""
    choice = {"index": 0, "delta": {"content": "some"}, "logprobs": None, "finish_reason": None}
    document = {"id": "c", "object": "chat.completion.chunk", "model": "m", "usage": None}
    return {**document, "choices": [choice]}


def general_chunks(documents: list[Any]) -> ChatReader:
    """A reader of these chunks that reads none straight."""
    reader = ChatReader()
    reader._read_plain_choice = lambda *_: False  # type: ignore[method-assign]
    return reader_after(reader, documents)


def reader_after(reader: ChatReader, documents: list[Any]) -> ChatReader:
    for document in documents:
        if type(document) is dict:
            reader.note_error(document)
            reader.read_event(document, b"data: " + orjson.dumps(document))
    reader.update_count()
    return reader


@settings(deadline=None)
@given(st.lists(mutated(some_chunk), min_size=1, max_size=4))
def test_straight_chunks_read_like_any_other(documents: list[Any]) -> None:
    straight, general = reader_after(ChatReader(), documents), general_chunks(documents)
    assert straight.facts == general.facts
    assert straight._streamed == general._streamed
    assert straight._finished_choices == general._finished_choices
    kept, wanted = straight.repeated, general.repeated
    assert (kept.before, kept.after, kept.between) == (wanted.before, wanted.after, wanted.between)


# Requests


def request() -> dict[str, Any]:
    """A chat request as an SDK sends it."""
    return {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "h\u00e9"},
        ],
        "max_tokens": 5,
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def check_request(document: Any) -> bool:
    """Whether the straight reading accepts a document; its facts are then those of any other."""
    options = ReadOptions(template_overhead_tokens=3)
    found = read_plain(document, options)
    wanted: RequestFacts | None = None
    try:
        wanted = read_any(require_object(json.loads(json.dumps(document))), options)
    except BadRequest:
        assert found is None
    if found is not None:
        assert found == wanted
    return found is not None


@settings(deadline=None)
@given(mutated(request))
@example(request())
def test_a_straight_request_reads_like_any_other(document: Any) -> None:
    check_request(document)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stream": False},
        {"max_tokens": None, "max_completion_tokens": 9},
        {"stream_options": None},
        {"stream_options": {"include_usage": False}},
        {"stop": ["x"], "seed": 1, "metadata": {"any": "thing"}},
    ],
)
def test_plain_requests_are_read_straight(changes: dict[str, Any]) -> None:
    assert check_request({**request(), **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"max_completion_tokens": 9},
        {"max_tokens": 0},
        {"max_tokens": True},
        {"max_tokens": 1.0},
        {"model": ""},
        {"model": "a\nb"},
        {"model": 1},
        {"stream": 1},
        {"stream_options": {"include_usage": 1}},
        {"stream_options": {"include_usage": True, "Include_Usage": False}},
        {"n": 2},
        {"user": "u"},
        {"tools": []},
        {"messages": []},
        {"messages": {"role": "user", "content": "x"}},
        {"messages": ["ab", ["role", "content"], 12]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": ["x"]}]},
        {"messages": [{"role": "user", "Content": "x"}]},
        {"messages": [{"role": "user", "content": "x", "name": "y"}]},
        {"messages": [{"role": 1, "content": "x"}]},
    ],
)
def test_other_requests_are_not(changes: dict[str, Any]) -> None:
    assert not check_request({**request(), **changes})


def test_no_plain_field_needs_a_decision() -> None:
    assert PLAIN <= UNPROMPTED
    assert PLAIN.isdisjoint({*SCOPED, *STATEFUL, *OUTPUT_COUNTS, "service_tier", "modalities"})
