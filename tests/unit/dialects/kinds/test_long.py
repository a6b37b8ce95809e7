"""Long answers: everything that prices is found, and only text is output."""

from typing import Any

import pytest

from tests.support.metering import DONE, USAGE, Case, chat, chunk, expect_cost, gemini, sse

GEMINI_PRICES = {"input": 300_000, "output": 10_000_000}
MEDIA = "QUJD" * 2_250_000
DATA_URL = "data:image/png;base64," + MEDIA
LOGPROBS = [{"token": "a", "bytes": [1] * 99}] * 30_000


def test_long_inline_media_is_not_output() -> None:
    case = Case("gemini_generate", prices=GEMINI_PRICES)
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 4500, "totalTokenCount": 4510}
    answer = gemini({"inlineData": {"mimeType": "image/png", "data": MEDIA}}, usage=usage)
    assert not expect_cost(case, answer, "0.045003").flags


def test_long_pictures_are_counted_beside_their_tokens() -> None:
    case = Case("openai_images", {"n": 3}, prices={"image": 40_000_000_000})
    data = [{"b64_json": "QUJD" * 750_000}] * 3
    usage = {"input_tokens": 50, "output_tokens": 4160, "total_tokens": 4210}
    expect_cost(case, {"created": 1, "data": data, "usage": usage}, "0.12")


def test_long_log_probabilities_are_not_output() -> None:
    logprobs = [{"123": {"logprob": -1.25, "rank": 1, "decoded_token": " hello"}}] * 150_000
    usage = {"prompt_tokens": 8000, "completion_tokens": 1}
    expect_cost(Case(), chat("x", usage=usage, prompt_logprobs=logprobs), "0.024015")


def test_a_long_event_of_media_and_usage_is_charged_as_reported() -> None:
    audio = {"audio": {"data": "QUJD" * 1_250_000}}
    event = {"choices": [{"index": 0, "delta": audio}], "usage": USAGE}
    expect_cost(Case(stream=True), sse(event, chunk(), DONE), "0.0105")


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize(
    ("case", "answer"),
    [
        (Case(), {"choices": [{"message": {"content": [{"type": "image_url", "image_url": {"url": DATA_URL}}]}}]}),
        (Case(), {"choices": [{"message": {"content": "hi", "images": [{"image_url": {"url": MEDIA}}]}}]}),
        (Case(), {"choices": [{"message": {"content": "hi"}, "logprobs": {"content": LOGPROBS}}]}),
        (Case("openai_embeddings"), {"data": [{"embedding": [0.25] * 400_000}] * 4}),
        (Case("openai_responses"), {"output": [{"type": "image_generation_call", "id": "i", "result": MEDIA}]}),
        (Case("openai_completions"), {"choices": [{"text": "hi", "logprobs": {"tokens": ["t"] * 600_000}}]}),
    ],
)  # fmt: skip
def test_usage_is_found_before_and_behind_what_is_long(
    case: Case, answer: dict[str, Any], place: str
) -> None:
    if case.dialect == "openai_responses":
        usage = {"usage": {"input_tokens": 1000, "output_tokens": 500}}
    else:
        usage = {"usage": USAGE}
    expect_cost(case, {**usage, **answer} if place == "first" else {**answer, **usage}, "0.0105")


def test_a_long_message_of_anthropic_is_read() -> None:
    content = [{"type": "tool_use", "id": "t", "name": "f", "input": {"blob": MEDIA}}]
    usage = {"input_tokens": 1000, "output_tokens": 500}
    expect_cost(Case("anthropic_messages"), {"content": content, "usage": usage}, "0.0105")


def test_long_text_without_usage_costs_at_most_the_hold() -> None:
    found = expect_cost(Case(), chat("words " * 1_500_000), "0.122913")
    assert found.amount_nano <= found.held_nano
    assert found.flags == {"usage_missing"}


@pytest.mark.parametrize(
    "page", [b"<html>" + b"<p>sorry</p>" * 100_000, b"<html>busy</html>", b"busy"]
)
def test_a_page_is_no_output(page: bytes) -> None:
    assert expect_cost(Case(), page, "0.000033").flags == {"usage_missing"}
