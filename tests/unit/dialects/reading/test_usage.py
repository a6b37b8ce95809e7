"""Reports of usage, in every spelling, read into exclusive pools; and several reports together."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.reading.tables import ANTHROPIC, GEMINI, OPENAI
from gateway.dialects.reading.usage import Pools, UsageAccumulator, UsageTable, read_figures

CHAT: dict[str, Any] = {"prompt_tokens": 10, "completion_tokens": 6}
RESPONSE: dict[str, Any] = {"input_tokens": 10, "output_tokens": 6}
GEM: dict[str, Any] = {"promptTokenCount": 10, "candidatesTokenCount": 6}


def pools(report: Any, table: UsageTable = OPENAI, counted: int = 0) -> Pools:
    return table.pools(read_figures(report, table)[0], counted)


def usage(report: Any, table: UsageTable = OPENAI, counted: int = 0) -> dict[str, int]:
    return pools(report, table, counted).usage


READERS = [
    (OPENAI, CHAT, "prompt_tokens"),
    (OPENAI, CHAT, "completion_tokens"),
    (OPENAI, RESPONSE, "input_tokens"),
    (OPENAI, RESPONSE, "output_tokens"),
    (ANTHROPIC, RESPONSE, "input_tokens"),
    (ANTHROPIC, RESPONSE, "output_tokens"),
    (GEMINI, GEM, "promptTokenCount"),
    (GEMINI, GEM, "candidatesTokenCount"),
]


@pytest.mark.parametrize(("table", "report", "name"), READERS)
@pytest.mark.parametrize("value", [-1, "six", True, [3], 10**9 + 1, 2**63, float("nan")])
def test_row_48_an_impossible_figure_is_left_out_and_named(
    table: UsageTable, report: dict[str, Any], name: str, value: object
) -> None:
    assert usage(report, table) == {"input": 10, "output": 6}
    figures, problem = read_figures({**report, name: value}, table)
    assert problem is not None
    assert problem.startswith(name)
    found = table.pools(figures, 0)
    is_input = "prompt" in name or "input" in name
    assert (found.input_reported, found.output_reported) == (not is_input, is_input)


@pytest.mark.parametrize(("table", "report", "name"), READERS)
@pytest.mark.parametrize("value", [None, "", 0, [], {}, False, "drop"])
def test_a_figure_that_is_absent_empty_or_zero_is_not_reported(
    table: UsageTable, report: dict[str, Any], name: str, value: object
) -> None:
    partial = {k: v for k, v in {**report, name: value}.items() if v != "drop"}
    found = pools(partial, table)
    is_input = "prompt" in name or "input" in name
    assert (found.input_reported, found.output_reported) == (not is_input, is_input)


@pytest.mark.parametrize("report", ["x", 3, True, [3]])
def test_a_report_is_an_object(report: object) -> None:
    assert read_figures(report, OPENAI) == ({}, "usage is not an object")


@pytest.mark.parametrize("report", [[], "", 0, False])
def test_an_empty_report_is_none(report: object) -> None:
    assert read_figures(report, OPENAI) == ({}, None)


@pytest.mark.parametrize(
    ("report", "wanted"),
    [
        # DeepSeek, Kimi, LiteLLM, Mistral and others: cached input and cache writes
        (
            {"prompt_cache_hit_tokens": 9, "prompt_cache_miss_tokens": 1},
            {"cache_read": 9, "input": 1},
        ),
        ({"cached_tokens": 4}, {"cache_read": 4, "input": 6}),
        ({"cache_read_input_tokens": 4}, {"cache_read": 4, "input": 6}),
        ({"cache_creation_input_tokens": 4}, {"cache_write": 4, "input": 6}),
        ({"cached_write_tokens": 4}, {"cache_write": 4, "input": 6}),
        ({"prompt_tokens_details": {"cached_tokens": 4}}, {"cache_read": 4, "input": 6}),
        ({"prompt_tokens_details": {"cache_creation_tokens": 4}}, {"cache_write": 4, "input": 6}),
        ({"prompt_tokens_details": {"cached_write_tokens": 4}}, {"cache_write": 4, "input": 6}),
        ({"input_tokens_details": {"cached_tokens": "4.0"}}, {"cache_read": 4, "input": 6}),
        # The same figure in two spellings counts once.
        (
            {"cached_tokens": 4, "prompt_tokens_details": {"cached_tokens": 4}},
            {"cache_read": 4, "input": 6},
        ),
        (
            {"cached_tokens": 4, "prompt_cache_hit_tokens": 4, "cache_read_input_tokens": 4},
            {"cache_read": 4, "input": 6},
        ),
        ({"input_tokens": 10}, {"input": 10}),
        ({"prompt_tokens": "10.0"}, {"input": 10}),
        ({"prompt_tokens": 9.2}, {"input": 10}),
    ],
)
def test_spellings_of_input(report: dict[str, Any], wanted: dict[str, int]) -> None:
    assert usage({**CHAT, **report}) == {**wanted, "output": 6}


@pytest.mark.parametrize(
    ("report", "wanted", "unexplained"),
    [
        ({"total_tokens": 16}, {"input": 10, "output": 6}, False),
        ({"total_tokens": 15}, {"input": 10, "output": 6}, False),
        ({"total_tokens": 116}, {"input": 10, "output": 6, "reasoning": 100}, True),
        (
            {"total_tokens": 116, "completion_tokens_details": {"reasoning_tokens": 100}},
            {"input": 10, "output": 6, "reasoning": 100},
            False,
        ),
        (
            {"total_tokens": 120, "completion_tokens_details": {"reasoning_tokens": 100}},
            {"input": 10, "output": 6, "reasoning": 104},
            True,
        ),
        (
            {"total_tokens": 20, "completion_tokens_details": {"reasoning_tokens": 2}},
            {"input": 10, "output": 4, "reasoning": 6},
            True,
        ),
        # Anthropic's exclusive semantics behind OpenAI's names: the total tells.
        (
            {"total_tokens": 1816, "cache_read_input_tokens": 1800},
            {"input": 10, "cache_read": 1800, "output": 6},
            False,
        ),
        (
            {"total_tokens": 24, "cached_tokens": 3, "cached_write_tokens": 5},
            {"input": 10, "cache_read": 3, "cache_write": 5, "output": 6},
            False,
        ),
        ({"completion_tokens": 0, "total_tokens": 10}, {"input": 10}, False),
        ({"completion_tokens": 0, "total_tokens": 99}, {"input": 10, "reasoning": 89}, True),
        ({"completion_tokens": None, "total_tokens": 30}, {"input": 10, "output": 20}, False),
        ({"prompt_tokens": 0, "total_tokens": 30}, {"input": 24, "output": 6}, False),
        (
            {"prompt_audio_seconds": 7, "total_tokens": 100},
            {"input": 10, "audio_input": 84, "output": 6, "second": 7},
            False,
        ),
    ],
)
def test_a_total_says_what_is_beside_and_what_is_within(
    report: dict[str, Any], wanted: dict[str, int], unexplained: bool
) -> None:
    found = pools({**CHAT, **report})
    assert (found.usage, found.unexplained) == (wanted, unexplained)


@pytest.mark.parametrize(("table", "name"), [(OPENAI, "total_tokens"), (GEMINI, "totalTokenCount")])
def test_a_total_alone_is_input_beside_the_output_that_was_counted(
    table: UsageTable, name: str
) -> None:
    assert usage({name: 700}, table) == {"input": 700}
    assert usage({name: 700}, table, counted=50) == {"input": 650, "output": 50}
    assert pools({name: 700}, table, counted=50).unexplained
    assert usage({name: 30}, table, counted=50) == {"output": 30}


@pytest.mark.parametrize(
    ("table", "details"),
    [
        (OPENAI, {"prompt_tokens_details": []}),
        (OPENAI, {"prompt_tokens_details": ""}),
        (OPENAI, {"prompt_tokens_details": [1]}),
        (OPENAI, {"completion_tokens_details": "x"}),
        (OPENAI, {"prompt_tokens_details": {"cached_tokens": -1}}),
        (OPENAI, {"prompt_tokens_details": {"cached_tokens": "one"}}),
        (OPENAI, {"prompt_tokens_details": {"audio_tokens": 6, "image_tokens": 5}}),
        (OPENAI, {"cached_tokens": False}),
        (OPENAI, {"total_tokens": -1}),
        (OPENAI, {"prompt_audio_seconds": {}}),
        (ANTHROPIC, {"cache_creation": 0}),
        (ANTHROPIC, {"server_tool_use": []}),
        (GEMINI, {"promptTokensDetails": {}}),
        (GEMINI, {"promptTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}]}),
        (GEMINI, {"candidatesTokensDetails": [3]}),
    ],
)
def test_an_odd_detail_spoils_nothing(table: UsageTable, details: dict[str, Any]) -> None:
    report = CHAT if table is OPENAI else GEM if table is GEMINI else RESPONSE
    assert usage({**report, **details}, table) == {"input": 10, "output": 6}


@pytest.mark.parametrize(
    ("table", "details", "wanted"),
    [
        # Perplexity, whose reasoning is beside the completion although the total leaves it out
        (
            OPENAI,
            {"total_tokens": 16, "completion_tokens_details": {"reasoning_tokens": 70}},
            {"input": 10, "output": 6, "reasoning": 70},
        ),
        (
            OPENAI,
            {"total_tokens": 16, "cache_read_input_tokens": 5000},
            {"input": 10, "cache_read": 5000, "output": 6},
        ),
        (GEMINI, {"cachedContentTokenCount": 50}, {"input": 10, "cache_read": 50, "output": 6}),
        (
            GEMINI,
            {"thoughtsTokenCount": 700, "totalTokenCount": 16},
            {"input": 10, "output": 6, "reasoning": 700},
        ),
    ],
)
def test_what_exceeds_its_whole_is_beside_it(
    table: UsageTable, details: dict[str, Any], wanted: dict[str, int]
) -> None:
    assert usage({**(GEM if table is GEMINI else CHAT), **details}, table) == wanted


def test_audio_from_the_cache_is_not_counted_twice() -> None:
    details = {"cached_tokens": 8, "audio_tokens": 5}
    found = usage({**CHAT, "prompt_tokens_details": details})
    assert found == {"cache_read": 5, "audio_input": 5, "output": 6}


def test_anthropic_cache_writes_split_by_lifetime() -> None:
    report = {**RESPONSE, "cache_creation_input_tokens": 100}
    assert usage(report, ANTHROPIC)["cache_write"] == 100
    split = {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 70}
    found = usage({**report, "cache_creation": split}, ANTHROPIC)
    assert (found["cache_write"], found["cache_write_1h"]) == (30, 70)
    grown = {**report, "cache_creation_input_tokens": 150, "cache_creation": split}
    found = usage(grown, ANTHROPIC)
    assert (found["cache_write"], found["cache_write_1h"]) == (80, 70)
    found = usage({**RESPONSE, "output_tokens_details": {"thinking_tokens": 7}}, ANTHROPIC)
    assert found == {"input": 10, "reasoning": 6}


def test_anthropic_input_that_is_all_from_the_cache_is_reported() -> None:
    found = pools({"input_tokens": 0, "cache_read_input_tokens": 50, "output_tokens": 1}, ANTHROPIC)
    assert found.input_reported


@pytest.mark.parametrize(
    ("report", "wanted"),
    [
        (
            {"thoughtsTokenCount": 4, "totalTokenCount": 20},
            {"input": 10, "output": 6, "reasoning": 4},
        ),
        (
            {"thoughtsTokenCount": 4, "totalTokenCount": 16},
            {"input": 10, "output": 2, "reasoning": 4},
        ),
        ({"totalTokenCount": 40}, {"input": 10, "output": 6, "reasoning": 24}),
        ({"candidatesTokenCount": None, "totalTokenCount": 40}, {"input": 10, "output": 30}),
        ({"toolUsePromptTokenCount": 5, "totalTokenCount": 21}, {"input": 15, "output": 6}),
        ({"cachedContentTokenCount": 9}, {"input": 1, "cache_read": 9, "output": 6}),
        (
            {"promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 3}, {"modality": "TEXT"}]},
            {"input": 7, "audio_input": 3, "output": 6},
        ),
    ],
)
def test_gemini_figures(report: dict[str, Any], wanted: dict[str, int]) -> None:
    assert usage({**GEM, **report}, GEMINI) == wanted


# Several reports in one answer


def together(*reports: tuple[Any, int], table: UsageTable = OPENAI) -> UsageAccumulator:
    """Reports, each with the output that was counted when it came."""
    accumulator = UsageAccumulator(table)
    for report, counted in reports:
        accumulator.take(report, counted, final=False)
    return accumulator


UNUSABLE: list[Any] = [
    {},
    None,
    {"prompt_tokens": 0},
    {"completion_tokens": -1},
    {"prompt_tokens": "x"},
    [],
]


@pytest.mark.parametrize("other", UNUSABLE)
def test_an_unusable_report_undoes_nothing(other: Any) -> None:
    for reports in ([(CHAT, 6), (other, 9)], [(other, 0), (CHAT, 6)]):
        found = together(*reports)
        assert found.pools is not None
        assert (found.pools.usage, found.counted_at) == ({"input": 10, "output": 6}, 6)


@pytest.mark.parametrize("other", UNUSABLE)
def test_only_an_impossible_report_is_a_problem(other: Any) -> None:
    found = together((other, 5))
    assert found.pools is None
    assert (found.problem is not None) == (
        other in ({"completion_tokens": -1}, {"prompt_tokens": "x"})
    )


def test_no_figure_ever_falls() -> None:
    found = together(
        ({"input_tokens": 1000, "output_tokens": 1}, 0),
        ({"input_tokens": 0, "output_tokens": 20}, 9),
        ({"output_tokens": 5, "cache_read_input_tokens": 7}, 12),
        table=ANTHROPIC,
    )
    assert found.pools is not None
    assert found.pools.usage == {"input": 1000, "cache_read": 7, "output": 20}
    assert found.counted_at == 9, "a smaller figure does not cover what was counted after"


def test_figures_of_several_reports_are_one_report() -> None:
    found = together(
        ({"prompt_tokens": 100}, 0), ({"cached_tokens": 80, "completion_tokens": 5}, 5)
    )
    assert found.pools is not None
    assert found.pools.usage == {"input": 20, "cache_read": 80, "output": 5}


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
    found = usage(report)
    inputs = ("input", "cache_read", "cache_write", "audio_input")
    beside = prompt and max(cached, written) > prompt
    assert sum(found.get(unit, 0) for unit in inputs) == prompt + beside * (cached + written)
    beside = completion and reasoning > completion
    output = found.get("output", 0) + found.get("reasoning", 0)
    assert output == completion + beside * reasoning
    assert all(quantity > 0 for quantity in found.values())


@settings(deadline=None)
@given(st.lists(st.tuples(COUNT, COUNT, st.integers(0, 4000)), max_size=6))
def test_a_total_is_never_charged_twice(reports: list[tuple[int, int, int]]) -> None:
    found = together(
        *(
            ({"prompt_tokens": p, "completion_tokens": c, "total_tokens": t}, 0)
            for p, c, t in reports
        )
    )
    if found.pools is not None:
        parts = max(p for p, _, _ in reports) + max(c for _, c, _ in reports)
        total = max(t for _, _, t in reports)
        assert sum(found.pools.usage.values()) == max(parts, total)
