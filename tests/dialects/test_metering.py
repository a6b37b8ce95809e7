"""Long answers are metered in bounded memory; odd ones are not taken for others."""

import json

import pytest

from gateway.dialects import DIALECTS
from gateway.dialects.base import Meter, RequestFacts
from gateway.dialects.metering import MAX_WHOLE_BYTES, TAIL_BYTES, JsonMeter

ASKED = RequestFacts("m", stream=False, input_bound=1, output_bound=None)


def meter(name: str) -> Meter:
    return DIALECTS[name].meter(ASKED, streaming=False)


def feed(reading: Meter, data: bytes, piece: int = 1_000_000) -> None:
    for at in range(0, len(data), piece):
        assert reading.feed(data[at : at + piece]) == data[at : at + piece]
    assert reading.finish() == b""


def long_embeddings(usage: object) -> bytes:
    vectors = b",".join([b"[" + b"0.125," * 200_000 + b"0]"] * 8)
    assert len(vectors) > MAX_WHOLE_BYTES
    return b'{"data":[' + vectors + b'],"model":"e","usage":' + json.dumps(usage).encode() + b"}"


def test_a_long_answer_is_read_from_its_end() -> None:
    reading = meter("openai_embeddings")
    feed(reading, long_embeddings({"prompt_tokens": 9000, "total_tokens": 9000}))
    assert reading.facts.usage == {"input": 9000}
    assert reading.facts.usage_final
    assert reading.facts.counted_output == 0


def test_a_nested_report_at_the_end_is_read_whole() -> None:
    reading = meter("openai_chat")
    text = b'{"choices":[{"message":{"content":"' + b"x" * MAX_WHOLE_BYTES + b'"}}],"usage" : '
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    feed(reading, text + json.dumps(usage).encode() + b',"id":"x"}')
    assert reading.facts.usage == {"input": 5, "cache_read": 4, "output": 5}


@pytest.mark.parametrize(
    "end", [b'"}', b'\\"usage\\":{\\"prompt_tokens\\":1}"}', b'","usage":null}', b'","usage"']
)
def test_a_long_answer_without_usage_has_none(end: bytes) -> None:
    reading = meter("openai_chat")
    feed(reading, b'{"x":"' + b"y" * (MAX_WHOLE_BYTES + 1) + end)
    assert reading.facts.usage is None
    assert reading.facts.counted_output >= MAX_WHOLE_BYTES // 4


def test_memory_is_bounded() -> None:
    reading = meter("openai_chat")
    assert isinstance(reading, JsonMeter)
    for _ in range(40):
        reading.feed(b"x" * 1_000_000)
        assert sum(map(len, reading._pieces)) <= MAX_WHOLE_BYTES + 1_000_000
    feed(reading, b'"usage":{"prompt_tokens":1,"completion_tokens":2}}')
    assert reading.facts.usage == {"input": 1, "output": 2}


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'{"choices":', b"\xff", b'{"usage":"x"}']
)
@pytest.mark.parametrize("name", ["openai_chat", "openai_responses", "anthropic_messages"])
def test_an_answer_that_is_none_has_no_usage(name: str, body: bytes) -> None:
    reading = meter(name)
    feed(reading, body)
    assert reading.facts.usage is None
    assert not reading.facts.usage_final
    assert reading.facts.counted_output == 0


def test_a_usage_that_is_wrong_is_named() -> None:
    reading = meter("openai_chat")
    feed(reading, b'{"usage":{"prompt_tokens":"3","completion_tokens":1}}')
    assert reading.facts.usage_problem == "prompt_tokens is not a whole number"


def test_the_tail_is_longer_than_any_report() -> None:
    assert TAIL_BYTES > 4096
