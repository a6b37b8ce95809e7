"""Usage in every place, spelling and form, in documents that are not quite JSON."""

from decimal import Decimal
from typing import Any

import orjson
import pytest

from tests.support.metering import DONE, PRICES, USAGE, Case, chat, chunk, expect_cost, sse

DEEPSEEK = {"prompt_cache_hit_tokens": 99_000, "prompt_cache_miss_tokens": 1000}


@pytest.mark.parametrize(
    ("usage", "price", "flags"),
    [
        ({"prompt_tokens": 100_000, "completion_tokens": 10, **DEEPSEEK}, "0.03285", set()),
        ({"prompt_tokens": 20, "completion_tokens": 424, "total_tokens": 1016}, "0.01500", {"usage_unexplained"}),
        ({"completion_tokens": 10, **DEEPSEEK}, "0.03285", set()),
        ({"prompt_tokens": 5000, "completion_tokens": 400, "cached_tokens": 4000}, "0.0102", set()),
        ({"prompt_tokens": 5000, "completion_tokens": 400, "cache_creation_input_tokens": 4000}, "0.024", set()),
        ({"prompt_tokens": 5000, "completion_tokens": 400, "cached_write_tokens": 4000}, "0.024", set()),
        ({"input_tokens": 5000, "output_tokens": 400}, "0.021", set()),
        ({"prompt_tokens": 1000, "total_tokens": 1500}, "0.0105", set()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
def test_spellings_of_usage(usage: Any, price: str, flags: set[str], stream: bool) -> None:
    answer = (
        sse(chunk("hi"), {"choices": [], "usage": usage}, DONE) if stream else chat(usage=usage)
    )
    assert expect_cost(Case(stream=stream), answer, price).flags == flags


PLACED = {"prompt_tokens": 5000, "completion_tokens": 400}


def last_chunk(**more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", **more}]}


@pytest.mark.parametrize(
    "last",
    [
        last_chunk(usage=PLACED),
        {**last_chunk(), "x_groq": {"id": "r", "usage": PLACED}},
        {**last_chunk(), "usage": PLACED},
        {**last_chunk(usage=PLACED), "usage": PLACED, "x_groq": {"usage": PLACED}},
        {"choices": [], "usage": PLACED},
    ],
)
@pytest.mark.parametrize("done", [[DONE], []])
def test_usage_in_each_place_counts_once(last: dict[str, Any], done: list[bytes]) -> None:
    assert not expect_cost(Case(stream=True), sse(chunk("hi"), last, *done), "0.021").flags


@pytest.mark.parametrize("place", ["choice", "x_groq"])
def test_usage_in_each_place_of_a_document(place: str) -> None:
    answer = chat()
    if place == "choice":
        answer["choices"][0]["usage"] = PLACED
    else:
        answer["x_groq"] = {"usage": PLACED}
    assert not expect_cost(Case(), answer, "0.021").flags


def test_a_total_alone_is_the_input_of_embeddings() -> None:
    answer = {"data": [], "usage": {"total_tokens": 700}}
    case = Case("openai_embeddings", prices={"input": PRICES["input"]})
    assert not expect_cost(case, answer, "0.0021").flags


@pytest.mark.parametrize(
    ("completion", "tokens"),
    [(14417.92, 14418), (500.0, 500), ("500", 500), ("500.0", 500), ("14417.92", 14418)],
)
def test_quantities_in_every_form(completion: Any, tokens: int) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": completion}
    wanted = Decimal("0.003") + Decimal(tokens) * Decimal("0.000015")
    assert not expect_cost(Case(max_output_tokens=20_000), chat(usage=usage), str(wanted)).flags


ODD: list[tuple[bytes, bytes]] = [
    (b'"logprobs":null', b'"logprobs":[-Infinity,NaN,Infinity]'),
    (b'"logprobs":null', b'"logprobs":"\\ud800"'),
    (b'"logprobs":null', b'"logprobs":"\xff\xfe"'),
    (b'"logprobs":null', b'"logprobs":"a\x01\x1f\tb"'),
    (b'"logprobs":null', b'"logprobs":' + b"[" * 5000 + b"]" * 5000),
    (b'"logprobs":null', b'"logprobs":1e999,"x":01,"y":+1,"z":.5'),
    (b'"logprobs":null', b'"logprobs":"\\x41"'),
]


@pytest.mark.parametrize(("plain", "odd"), ODD)
def test_usage_of_a_document_that_is_not_quite_json(plain: bytes, odd: bytes) -> None:
    for preset in ("balanced", "strict"):
        data = orjson.dumps(chat("hi", logprobs=None, usage=USAGE)).replace(plain, odd)
        assert not expect_cost(Case(preset=preset), data, "0.0105").flags
        assert not expect_cost(Case(preset=preset), data + b" trailing} bytes", "0.0105").flags
        chunks = sse(chunk("hi", logprobs=None, usage=USAGE), last_chunk(), DONE)
        stream = Case(stream=True, preset=preset)
        assert not expect_cost(stream, chunks.replace(plain, odd), "0.0105").flags


def test_text_that_is_not_quite_text_counts_its_bytes() -> None:
    data = orjson.dumps(chat("PLACE")).replace(b"PLACE", b"\\ud83d caf\xc3\xa9 \xff ok ok")
    assert expect_cost(Case(), data, "0.000108").flags == {"usage_missing"}
