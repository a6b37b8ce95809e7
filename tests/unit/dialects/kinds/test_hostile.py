"""Answers that were found by attacking the meter; each is one of its kind."""

from typing import Any

import orjson
import pytest
from msgpack import packb

from gateway.dialects import DIALECTS
from gateway.dialects.anthropic.reader import MessagesReader
from gateway.dialects.base import Answered, Asked, Limit, Meter, ReadOptions
from gateway.dialects.gemini.reader import GeminiReader
from gateway.dialects.openai.chat_reader import ChatReader, EmbeddingsReader
from gateway.dialects.openai.images import ImagesReader
from gateway.dialects.openai.responses_reader import ResponsesReader
from gateway.dialects.openai.speech import SpeechReader
from gateway.dialects.openai.transcriptions import TranscriptReader
from gateway.dialects.reading.reader import AnswerReader
from tests.support.metering import (
    DONE,
    PRICES,
    USAGE,
    Case,
    charge,
    chat,
    chunk,
    cut_up,
    expect_cost,
    sse,
)

READERS: list[AnswerReader] = [
    ChatReader(),
    EmbeddingsReader(),
    GeminiReader(),
    ImagesReader(),
    MessagesReader(),
    ResponsesReader(),
    SpeechReader(1),
    TranscriptReader(1),
]
CALL = {"tool_call": 10_000_000_000}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: type(reader).__name__)
def test_what_a_reader_looks_for_is_kept_of_a_long_answer(reader: AnswerReader) -> None:
    assert reader.contents <= reader.kept | reader.complete


SURROGATE = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}\n\n'


def test_half_an_emoji_is_text() -> None:
    expect_cost(Case(stream=True), SURROGATE * 3 + sse(chunk("x", usage=USAGE), DONE), "0.0105")
    delta = (
        b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"\\ud83d"}}\n\n'
    )
    found = charge(Case("anthropic_messages", stream=True), [delta * 3], "left")
    assert found.outcome.usage["output"] == 3


def test_names_that_are_half_an_emoji_can_be_written_into_the_event() -> None:
    body = orjson.dumps(chat(usage=USAGE)).replace(b'"model":"m"', b'"model":"m\\ud83d"')
    body = body.replace(b'"stop"', b'"st\\udc00p"')
    meter = DIALECTS["openai_chat"].meter(asked(Case()), streaming=False)
    meter.feed(body)
    meter.finish()
    facts = meter.facts
    assert packb([facts.response_model, facts.finish_reason])
    assert (facts.response_model, facts.finish_reason) == ("m?", "st?p")


def asked(case: Case) -> Any:
    from tests.support.metering import asked_of

    request: Asked = asked_of(case)
    return DIALECTS[case.dialect].read(request, ReadOptions(priced_tools=case.tools))


@pytest.mark.parametrize("uses", [5, None])
def test_calls_beyond_reason_are_absurd(uses: int | None) -> None:
    tool = {"type": "web_search_20250305", "name": "web_search", "max_uses": uses}
    asks = {"tools": [tool]} if uses else {}
    usage = {"input_tokens": 10, "output_tokens": 5}
    usage |= {"server_tool_use": {"web_search_requests": 100_000_000}}  # type: ignore[dict-item]
    tools = frozenset({"web_search_20250305"})
    case = Case("anthropic_messages", asks, prices={**PRICES, **CALL}, tools=tools)
    found = charge(case, [orjson.dumps({"content": [], "usage": usage})])
    assert found.flags == {"usage_absurd"}
    assert found.amount_nano <= found.held_nano


def test_a_first_figure_that_repeats_says_nothing_of_what_came_since() -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 1, "total_tokens": 1001}
    repeating = sse(*[chunk("word " * 8, usage=usage) for _ in range(50)])
    once = sse(chunk("word " * 8, usage=usage), *[chunk("word " * 8) for _ in range(49)])
    found = [charge(Case(stream=True), [stream], "left") for stream in (repeating, once)]
    assert [each.outcome.usage["output"] for each in found] == [491, 491]
    prompt = {"prompt_tokens": 1000, "total_tokens": 1000}
    later = [chunk("w" * 400, usage={**usage, "completion_tokens": 10}), chunk("w" * 400)]
    found = [charge(Case(stream=True), [sse(*later, chunk("w" * 400, usage=prompt))], "left")]
    assert found[0].outcome.usage["output"] == 210


@pytest.mark.parametrize(
    "error",
    [
        {"choices": [{"index": 0, "finish_reason": "error", "message": {"content": ""}}]},
        {"choices": [{"index": 0, "delta": {"content": ""}, "error": {"code": 502}}]},
        {"type": "BadRequestError", "message": "too long", "code": 400},
        {"detail": "no", "choices": []},
    ],
)
def test_errors_in_unusual_places_cost_nothing(error: dict[str, Any]) -> None:
    for stream in (True, False):
        case = Case(stream=stream, preset="strict")
        answer = sse(error, DONE) if stream else error
        assert expect_cost(case, answer, "0").outcome.verb == "release"


def test_an_error_in_a_choice_pays_what_flowed_before_it() -> None:
    stream = sse(chunk("words and words"), {"choices": [{"index": 0, "finish_reason": "error"}]})
    expect_cost(Case(stream=True, preset="strict"), stream, "0.000093")


def test_one_call_whose_events_leave_its_id_out_is_one_call() -> None:
    item = {"type": "web_search_call", "status": "completed"}
    usage = {"input_tokens": 10, "output_tokens": 5}
    events = [
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.web_search_call.in_progress", "output_index": 0},
        {"type": "response.web_search_call.completed", "output_index": 0, "item_id": "late"},
        {"type": "response.output_item.done", "output_index": 0, "item": {**item, "id": "late"}},
        {"type": "response.completed", "response": {"output": [item], "usage": usage}},
    ]
    asks = {"tools": [{"type": "web_search"}], "max_tool_calls": 5}
    prices = {"input": 0, "output": 0, **CALL}
    tools = frozenset({"web_search"})
    case = Case("openai_responses", asks, stream=True, prices=prices, tools=tools)
    expect_cost(case, sse(*events), "0.01")


def test_a_byte_order_mark_is_no_part_of_a_stream_or_document() -> None:
    mark = b"\xef\xbb\xbf"
    stream = mark + sse({**chunk("hi"), "usage": USAGE}, DONE)
    expect_cost(Case(stream=True, label="text/event-stream"), stream, "0.0105")
    expect_cost(
        Case(stream=True, label="text/event-stream"),
        mark + orjson.dumps(chat(usage=USAGE)),
        "0.0105",
    )
    expect_cost(Case(), mark + orjson.dumps(chat(usage=USAGE)), "0.0105")


def stream_meter() -> Meter:
    facts = asked(Case(stream=True))
    answered = Answered(200, [(b"content-type", b"text/event-stream")], 0.0)
    return DIALECTS["openai_chat"].meter_answer(facts, answered, streaming=True)


def test_a_document_that_calls_itself_a_stream_waits_and_takes_nothing_behind_it() -> None:
    meter = stream_meter()
    body = orjson.dumps(chat("words " * 1000, usage=USAGE))
    assert [meter.feed(piece) for piece in cut_up(body, 700)] == [b""] * len(cut_up(body, 700))
    assert meter.finish() == body
    assert meter.inside
    assert meter.facts.usage == {"input": 1000, "output": 500}


def test_frames_that_wait_keep_their_ends() -> None:
    meter = stream_meter()
    first = sse(chunk("a"), chunk("b"))
    assert meter.feed(first, Limit(0)) == b""
    assert meter.feed(b"data: [DONE]\r\n\r\n", Limit(0)) == b""
    assert meter.feed(b"") + meter.finish() == first + b"data: [DONE]\r\n\r\n"


def test_frames_that_wait_at_the_end_are_read_and_passed() -> None:
    meter = stream_meter()
    stream = sse(chunk("a"), chunk("b"), {**chunk("c"), "usage": USAGE}, DONE)
    passed = meter.feed(stream, Limit(1))
    assert passed + meter.finish() == stream
    assert meter.facts.usage == {"input": 1000, "output": 500}


@pytest.mark.parametrize("text", ["日本語" * 120_000, 'quoted "words"\n' * 90_000, "\\u" * 400_000])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_long_text_counts_alike_however_it_is_cut(text: str, ascii_only: bool) -> None:
    import json

    body = json.dumps(chat(text), ensure_ascii=ascii_only).encode()
    counts = set()
    for size in (len(body), 65_536, 1460, 997):
        meter = DIALECTS["openai_chat"].meter(asked(Case()), streaming=False)
        for piece in cut_up(body, size):
            meter.feed(piece)
        meter.finish()
        counts.add(meter.facts.counted_output)
    assert counts == {-(-len(text.encode()) // 4)}


@pytest.mark.parametrize("size", [1_000, 300_000])
def test_a_call_s_arguments_count_alike_in_short_and_long_answers(size: int) -> None:
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {"code": '"\n' * size}}
    padding = {"x": "y" * 1_500_000} if size == 1_000 else {}
    found = []
    for more in ({}, padding):
        meter = DIALECTS["anthropic_messages"].meter(
            asked(Case("anthropic_messages")), streaming=False
        )
        meter.feed(orjson.dumps({"content": [block], **more}))
        meter.finish()
        found.append(meter.facts.counted_output)
    assert found[0] == found[1] == (2 * size + len('{"code":""}') + 3) // 4


@pytest.mark.parametrize("parts", [60_000, 200_000])
def test_usage_is_found_behind_more_than_is_kept(parts: int) -> None:
    content = b'{"type":"text","text":"abcdef"},' * parts
    body = b'{"choices":[{"message":{"content":[' + content + b'{}]}}],"usage":'
    body += orjson.dumps(USAGE) + b',"x":[{}]}'
    expect_cost(Case(), body, "0.0105")


def test_text_that_looks_like_a_data_url_is_text() -> None:
    text = "data:text/html," + "words " * 600
    output = [{"type": "message", "content": [{"type": "output_text", "text": text}]}]
    found = charge(Case("openai_responses"), [orjson.dumps({"output": output})])
    assert found.outcome.usage["output"] == -(-len(text) // 4)


def test_arguments_that_are_an_object_are_output() -> None:
    call = {"function": {"name": "fetch", "arguments": {"url": "u" * 4000, "data": "d" * 4000}}}
    answer = {"choices": [{"message": {"content": None, "tool_calls": [call]}}]}
    assert charge(Case(), [orjson.dumps(answer)]).outcome.usage["output"] > 2000


def test_a_stream_of_one_complete_message_is_counted_once() -> None:
    expect_cost(Case(stream=True), sse(chat("words and words")), "0.000093")
    expect_cost(
        Case(stream=True), sse(chunk("words and words"), chat("words and words")), "0.000093"
    )


def test_a_running_report_of_reasoning_survives_a_piece_that_waits() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 2003}
    usage |= {"completion_tokens_details": {"reasoning_tokens": 2000}}  # type: ignore[dict-item]
    stream = sse(chunk("a"), chunk("b"), chunk("c", usage=usage), chunk("d"))
    found = charge(Case(stream=True), [stream], "left")
    assert found.outcome.usage["reasoning"] == 2000
    assert found.outcome.usage["output"] == 4
