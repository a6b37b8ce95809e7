"""The meter beside a model that knows what it wrote.

`CREDITGATE_METER_SEEDS` says how many answers are drawn, `CREDITGATE_METER_MINUTES` how long at least
(`make meter-test`); answers grow up to 12 MB in the long form. A failure names its seed.
"""

import os
import time
from typing import Any

import pytest

from gateway.dialects import DIALECTS
from gateway.dialects.base import Answered, ReadOptions
from tests.support.metering import Case, asked_of, charge, rate
from tests.unit.dialects.provider_model import Truth, Writer

SEEDS = int(os.environ.get("CREDITGATE_METER_SEEDS", "1000"))
MINUTES = float(os.environ.get("CREDITGATE_METER_MINUTES", "0"))
MOST_BYTES = 12_000_000
WORKERS = 4

TOOLS: dict[str, tuple[dict[str, Any], str]] = {
    "openai_responses": ({"tools": [{"type": "web_search"}], "max_tool_calls": 9}, "web_search"),
    "gemini_generate": ({"tools": [{"googleSearch": {}}]}, "googleSearch"),
}


def case_of(truth: Truth) -> Case:
    asks, tool = TOOLS.get(truth.dialect, ({}, ""))
    prices = {"input": 3_000_000, "cache_read": 300_000, "cache_write": 3_750_000}
    prices |= {"output": 15_000_000, "tool_call": 10_000_000_000}
    return Case(truth.dialect, asks, truth.stream, prices, tools=frozenset({tool}))


def check(seed: int, most_bytes: int) -> None:
    """One answer: its bytes pass, its facts are the truth, its charge is exact."""
    truth = Writer(seed, most_bytes=most_bytes).answer()
    case = case_of(truth)
    dialect = DIALECTS[truth.dialect]
    asked = dialect.read(asked_of(case), ReadOptions(priced_tools=case.tools))
    label = b"text/event-stream" if truth.stream else b"application/json"
    answered = Answered(200, [(b"content-type", label)], 0.0)
    meter = dialect.meter_answer(asked, answered, streaming=truth.stream)
    passed = b"".join([*map(meter.feed, truth.pieces), meter.finish()])
    hides = truth.stream and truth.dialect in ("openai_chat", "openai_completions")
    assert passed == truth.answer or (hides and len(passed) < len(truth.answer))
    facts = meter.facts
    assert (facts.usage, facts.counted_output, facts.hosted_calls, facts.usage_problem) == (
        truth.reported,
        truth.counted,
        truth.calls,
        None,
    )
    assert not facts.error
    found = charge(case, truth.pieces)
    if truth.reported is None:
        assert found.flags == {"usage_missing"}
        assert found.amount_nano <= found.held_nano
    else:
        assert (found.flags, found.outcome.source) == (set(), "provider_reported")
        usage = {**truth.reported, "tool_call": truth.calls}
        assert found.amount_nano == rate(case, usage)
    for how in ("left", "killed", "broken"):
        ended = charge(case, truth.pieces[: len(truth.pieces) // 2], how)
        reported = rate(case, truth.reported or {})
        assert ended.amount_nano <= max(ended.held_nano, reported + ended.held_nano)


@pytest.mark.parametrize("worker", range(WORKERS))
@pytest.mark.timeout(120 + MINUTES * 120)
def test_answers_cost_what_they_say(worker: int) -> None:
    until = time.monotonic() + MINUTES * 60 * 2 / WORKERS  # two workers run at a time
    seed = worker
    while seed < SEEDS or time.monotonic() < until:
        # Most answers are small; one in a hundred is as long as it gets.
        large = MOST_BYTES if seed % 400 == worker else 20_000
        try:
            check(seed, large)
        except Exception as fault:
            raise AssertionError(f"seed {seed}, at most {large} bytes: {fault}") from fault
        seed += WORKERS
