"""Several reports in one answer, and ends that come before them."""

from typing import Any

import orjson
import pytest

from tests.support.metering import (
    DONE,
    USAGE,
    Case,
    How,
    charge,
    chat,
    chunk,
    expect_cost,
    gemini,
    sse,
)


def anthropic_stream(start: Any, delta: Any, text: str = "hello") -> bytes:
    return sse(
        {"type": "message_start", "message": {"id": "m", "model": "m", "usage": start}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": delta},
        {"type": "message_stop"},
    )


@pytest.mark.parametrize(
    ("start", "delta", "price"),
    [
        ({"input_tokens": 1000, "output_tokens": 1}, {"input_tokens": 0, "output_tokens": 20}, "0.0033"),
        ({"input_tokens": 1000, "output_tokens": 1}, {"output_tokens": 20}, "0.0033"),
        ({"input_tokens": 0, "output_tokens": 0}, {"input_tokens": 1000, "output_tokens": 20}, "0.0033"),
        (
            {"input_tokens": 1000, "cache_read_input_tokens": 500, "output_tokens": 1},
            {"cache_read_input_tokens": 0, "output_tokens": 20},
            "0.00345",
        ),
        ({"input_tokens": 1000, "output_tokens": 20}, {}, "0.003330"),
        ({"input_tokens": 1000, "output_tokens": 20}, {"output_tokens": -5}, "0.003330"),
        ({"input_tokens": 1000, "output_tokens": 1}, None, "0.003045"),
    ],
)  # fmt: skip
def test_figures_of_a_message_never_fall(start: Any, delta: Any, price: str) -> None:
    expect_cost(Case("anthropic_messages", stream=True), anthropic_stream(start, delta), price)


ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@pytest.mark.parametrize(
    "usage", [ZEROS, {}, None, {"prompt_tokens": 0}, {"completion_tokens": "0"}]
)
def test_zeros_beside_text_are_no_report(usage: Any) -> None:
    assert expect_cost(Case(), chat(usage=usage), "0.000093").flags == {"usage_missing"}
    strict = Case(preset="strict", body={"max_tokens": 1000})
    found = expect_cost(strict, chat(usage=usage), "0.01515375")
    assert found.flags == {"usage_missing"}
    assert found.amount_nano == found.held_nano


def test_zero_of_one_side_is_no_report_of_that_side() -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 20}
    assert expect_cost(Case(), chat(usage=usage), "0.000333").flags == {"usage_missing"}
    usage = {"prompt_tokens": 1000, "completion_tokens": 0}
    assert expect_cost(Case(), chat(usage=usage), "0.00306").flags == {"usage_missing"}
    strict = Case(preset="strict", body={"max_tokens": 1000})
    assert expect_cost(strict, chat(usage=usage), "0.018").flags == {"usage_missing"}


def test_zero_output_without_text_is_a_report() -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 0}
    assert not expect_cost(Case(), chat(None, usage=usage), "0.003").flags


@pytest.mark.parametrize("after", [{}, ZEROS, {"prompt_tokens": -1}, [], "none", {"x": 1}])
def test_a_good_report_survives_what_follows_it(after: Any) -> None:
    events = [chunk("hi"), {"choices": [], "usage": USAGE}, {"choices": [], "usage": after}, DONE]
    assert not expect_cost(Case(stream=True), sse(*events), "0.0105").flags
    gem = {"promptTokenCount": 1000, "candidatesTokenCount": 500}
    stream = sse(gemini({"text": "hi"}, usage=gem), {"candidates": [], "usageMetadata": after})
    assert not expect_cost(Case("gemini_generate", stream=True), stream, "0.0105").flags


PLACEHOLDERS = [
    ZEROS,
    {},
    {"prompt_tokens": 0, "completion_tokens": 0, "prompt_tokens_details": None},
]


@pytest.mark.parametrize("how", ["left", "killed", "broken"])
@pytest.mark.parametrize("usage", PLACEHOLDERS)
def test_early_placeholders_are_as_if_nothing_was_reported(usage: Any, how: How) -> None:
    with_zeros = sse(chunk("", usage=usage), chunk("words and words", usage=usage))
    without = sse(chunk(""), chunk("words and words"))
    found = expect_cost(Case(stream=True), with_zeros, "0.000093", how)
    assert found.outcome == charge(Case(stream=True), [without], how).outcome
    assert not found.flags


@pytest.mark.parametrize("how", ["left", "killed", "broken", "whole"])
def test_output_after_the_last_report_is_added(how: How) -> None:
    running = {"prompt_tokens": 1000, "completion_tokens": 100}
    stream = sse(chunk("a", usage=running), chunk("b"), chunk("c"), chunk("d" * 40))
    price = "0.004650"  # 43 bytes are 11 tokens, one of them before the report
    found = expect_cost(Case(stream=True), stream, price, how)
    assert found.flags == ({"usage_missing"} if how == "whole" else set())


@pytest.mark.parametrize("usage", [{}, None, {"promptTokenCount": 0}, {"candidatesTokenCount": -1}])
def test_who_leaves_pays_the_hold_where_that_is_the_policy(usage: Any) -> None:
    case = Case(
        "gemini_generate",
        {"contents": [{"parts": [{"text": "hello there"}]}]},
        stream=True,
        policy={"disconnect_stream": "charge_hold"},
    )
    stream = sse(gemini({"text": "Hi"}, usage=usage, reason=None))
    found = expect_cost(case, stream, "0.06163125", "left")
    assert not found.flags, "the policy decides, not what the usage looks like"


@pytest.mark.parametrize(
    ("policy", "how", "price"),
    [
        ("charge_seen", "left", "0.000048"),
        ("charge_input", "left", "0.000033"),
        ("charge_hold", "left", "0.06159375"),
        ("charge_seen", "killed", "0.000048"),
        ("charge_hold", "killed", "0.000048"),
        ("charge_hold", "broken", "0.000048"),
        ("charge_hold", "cut", "0.000048"),
    ],
)
@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -1}, ZEROS])
def test_each_way_out_is_charged_by_its_own_row(
    policy: str, how: How, price: str, usage: Any
) -> None:
    case = Case(stream=True, policy={"disconnect_stream": policy})
    expect_cost(case, sse(chunk("hi", usage=usage)), price, how)


def test_absurd_is_said_of_figures_that_are_impossible_and_only_then() -> None:
    usages: list[Any] = [None, {}, ZEROS, {"completion_tokens": 5}]
    for usage in usages:
        assert "usage_absurd" not in charge(Case(), [orjson.dumps(chat(usage=usage))]).flags
    impossible: list[Any] = [
        {"prompt_tokens": -1},
        {"prompt_tokens": 10**12},
        {"completion_tokens": "many"},
    ]
    for usage in impossible:
        found = expect_cost(Case(), chat(usage=usage), "0.000093")
        assert found.flags == {"usage_absurd"}
