"""Reports of usage: exclusive pools, or nothing at all."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.reported import (
    BadUsage,
    read_anthropic_usage,
    read_openai_usage,
    read_responses_usage,
)

CHAT: dict[str, Any] = {"prompt_tokens": 10, "completion_tokens": 6, "total_tokens": 16}
RESPONSE: dict[str, Any] = {"input_tokens": 10, "output_tokens": 6, "total_tokens": 16}
MESSAGE: dict[str, Any] = {"input_tokens": 10, "output_tokens": 6}

READERS = [
    (read_openai_usage, CHAT, "prompt_tokens"),
    (read_openai_usage, CHAT, "completion_tokens"),
    (read_responses_usage, RESPONSE, "input_tokens"),
    (read_responses_usage, RESPONSE, "output_tokens"),
    (read_anthropic_usage, MESSAGE, "input_tokens"),
    (read_anthropic_usage, MESSAGE, "output_tokens"),
]


@pytest.mark.parametrize(("read", "report", "name"), READERS)
@pytest.mark.parametrize("value", [-1, 2.0, "6", True, [], 10**9 + 1, 2**63, float("nan"), None])
def test_row_48_an_absurd_figure_makes_the_report_unusable(
    read: Any, report: dict[str, Any], name: str, value: object
) -> None:
    assert read(report) == {"input": 10, "output": 6}
    with pytest.raises(BadUsage, match=name):
        read({**report, name: value})
    with pytest.raises(BadUsage, match=name):
        read({k: v for k, v in report.items() if k != name})


@pytest.mark.parametrize("report", [None, [], "x", 3, True])
def test_a_report_must_be_an_object(report: object) -> None:
    for read in (read_openai_usage, read_responses_usage, read_anthropic_usage):
        with pytest.raises(BadUsage):
            read(report)


@pytest.mark.parametrize(
    "details",
    [
        {"prompt_tokens_details": {"cached_tokens": 11}},
        {"prompt_tokens_details": {"audio_tokens": 6, "image_tokens": 5}},
        {"prompt_tokens_details": {"cached_tokens": -1}},
        {"prompt_tokens_details": {"cached_tokens": "1"}},
        {"prompt_tokens_details": [1]},
        {"completion_tokens_details": {"reasoning_tokens": 7}},
        {"completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 3}},
        {"completion_tokens_details": "x"},
    ],
)
def test_details_that_cannot_be_make_the_report_unusable(details: dict[str, Any]) -> None:
    with pytest.raises(BadUsage):
        read_openai_usage({**CHAT, **details})


def test_reasoning_told_beside_the_completion_is_added() -> None:
    report = {
        "prompt_tokens": 10,
        "completion_tokens": 6,
        "total_tokens": 116,
        "completion_tokens_details": {"reasoning_tokens": 100},
    }
    assert read_openai_usage(report) == {"input": 10, "output": 6, "reasoning": 100}


def test_sound_from_the_cache_is_not_counted_twice() -> None:
    details = {"cached_tokens": 8, "audio_tokens": 5}
    usage = read_openai_usage({**CHAT, "prompt_tokens_details": details})
    assert usage == {"cache_read": 5, "audio_input": 5, "output": 6}


def test_anthropic_cache_writes_split_by_lifetime() -> None:
    report = {**MESSAGE, "cache_creation_input_tokens": 100}
    assert read_anthropic_usage(report)["cache_write"] == 100
    split = {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 70}
    usage = read_anthropic_usage({**report, "cache_creation": split})
    assert (usage["cache_write"], usage["cache_write_1h"]) == (30, 70)
    grown = read_anthropic_usage(
        {**report, "cache_creation_input_tokens": 150, "cache_creation": split}
    )
    assert (grown["cache_write"], grown["cache_write_1h"]) == (80, 70)
    with pytest.raises(BadUsage):
        read_anthropic_usage({**MESSAGE, "output_tokens_details": {"thinking_tokens": 7}})


COUNT = st.integers(0, 1000)


@settings(deadline=None)
@given(COUNT, COUNT, COUNT, COUNT, COUNT, COUNT)
def test_pools_add_up_to_what_was_reported(
    prompt: int, completion: int, cached: int, audio: int, written: int, reasoning: int
) -> None:
    report = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {
            "cached_tokens": cached,
            "audio_tokens": audio,
            "cache_write_tokens": written,
        },
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    try:
        usage = read_openai_usage(report)
    except BadUsage:
        assert max(cached, audio, written) > prompt or reasoning > completion
        return
    inputs = ("input", "cache_read", "cache_write", "audio_input")
    assert sum(usage.get(unit, 0) for unit in inputs) == prompt
    assert usage.get("output", 0) + usage.get("reasoning", 0) == completion
    assert all(quantity > 0 for quantity in usage.values())
