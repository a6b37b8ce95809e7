"""Reads the usage of one request off what was reported and what the gate counted. Pure."""

from typing import Final, Protocol

from gateway.dialects.base import AnswerFacts
from gateway.domain.token_vectors import PackedTokens
from gateway.domain.usage import (
    OUTPUT_UNITS,
    TOKEN_UNITS,
    Usage,
    usage_in_tier,
    without_tier,
)
from gateway.flow.catalog import Model
from gateway.flow.estimate import Estimate

ABSURD_FACTOR: Final = 100
ABSURD_SLACK: Final = 1_000_000
"""Usage beyond this many times the estimate, and tokens above it, is a fault of the upstream."""

_INPUT_UNITS: Final = frozenset(
    {"input", "cache_read", "cache_write", "cache_write_1h", "audio_input", "image_input"}
)
TOKEN_SIDES: Final = frozenset({"input", "output"})
NOTHING_MISSING: Final[frozenset[str]] = frozenset()


def plain_usage(facts: AnswerFacts, estimate: Estimate, model: Model) -> PackedTokens | None:
    """The usage of a complete response that was reported as nearly all are, packed.

    That is: final figures of tokens for a request of text, and nothing else seen or counted. None
    for all others, which `seen_usage` and its callers judge; where both apply they agree.
    """
    usage = facts.usage
    if (
        usage is None
        or not (facts.usage_final and facts.input_reported and facts.output_reported)
        or facts.error
        or facts.counted
        or facts.hosted_calls
        or facts.unreadable is not None
        or facts.counted_output > facts.output_reported_at
        or not estimate.text_only
        or model.other_units
        or model.free
    ):
        return None
    return model.token_vectors.reported(usage, ABSURD_FACTOR * estimate.most + ABSURD_SLACK)


class Measured(Protocol):
    """What was measured of a response, and what was estimated for it."""

    @property
    def facts(self) -> AnswerFacts: ...

    @property
    def estimate(self) -> Estimate: ...


def seen_usage(
    facts: AnswerFacts,
    estimate: Estimate,
    *,
    usable: bool = True,
    output: int | None = None,
    cut: bool = False,
) -> Usage:
    """Usage so far: what was reported where it was, else what the gate counted, at most the hold.

    usable:  the reports are believed
    output:  charge this much instead of the output that was counted or reported
    cut:     nothing beyond the hold was passed on, whatever a running report says
    """
    held = estimate.held_output
    usage: dict[str, int] = {"request": 1, **estimate.other_certain}
    for unit, quantity in facts.counted.items():
        usage[unit] = min(quantity, estimate.other_most.get(unit, quantity))
    if usable and facts.usage is not None:
        usage.update(facts.usage)
    if not (usable and facts.input_reported):
        usage["input"] = estimate.input_count
    if output is not None:
        usage.update(dict.fromkeys(OUTPUT_UNITS, 0), output=output)
    elif usable and facts.output_reported:
        produced = sum(usage.get(unit, 0) for unit in OUTPUT_UNITS)
        after = facts.counted_output - facts.output_reported_at
        if after > 0 and produced < held:
            usage["output"] = usage.get("output", 0) + min(after, held - produced)
        if cut and produced > held:
            _take_away(usage, produced - held)
    else:
        usage["output"] = min(facts.counted_output, held)
    calls = min(facts.hosted_calls, estimate.tool_calls)
    if calls > usage.get("tool_call", 0):
        usage["tool_call"] = calls
    return usage_in_tier(usage, estimate.tiers[0])


def _take_away(usage: dict[str, int], surplus: int) -> None:
    for unit in OUTPUT_UNITS:
        taken = min(surplus, usage.get(unit, 0))
        surplus -= taken
        usage[unit] = usage.get(unit, 0) - taken


def missing_units(model: Model, ended: Measured, usable: bool) -> frozenset[str]:
    """What is priced and was neither reported nor counted: "input", "output", other units."""
    facts, estimate = ended.facts, ended.estimate
    reports_both = facts.input_reported and facts.output_reported and facts.usage_final
    if usable and reports_both and not model.other_units:
        return NOTHING_MISSING
    missing = set()
    reported = facts.usage if usable and facts.usage is not None else {}
    for side in map(side_of, model.prices.units):
        if side == "input":
            known = (usable and facts.input_reported) or not estimate.input
        elif side == "output":
            silent = not facts.counted_output
            known = usable and facts.usage_final and (facts.output_reported or silent)
        else:
            known = side not in model.other_units or side in facts.counted or side in reported
        if not known:
            missing.add(side)
    return frozenset(missing)


def side_of(unit: str) -> str:
    """What a unit is a part of: "input", "output", or itself."""
    plain = without_tier(unit)
    return "input" if plain in _INPUT_UNITS else "output" if plain in OUTPUT_UNITS else plain


def is_usable(facts: AnswerFacts, estimate: Estimate) -> bool:
    """Whether usage was reported, and is within reason for this request."""
    if facts.usage is None:
        return False
    tokens = 0
    for unit, quantity in facts.usage.items():
        if unit in TOKEN_UNITS:
            tokens += quantity
        elif quantity > ABSURD_FACTOR:
            held = estimate.tool_calls if unit == "tool_call" else estimate.other_most.get(unit, 0)
            if quantity > ABSURD_FACTOR * max(1, held):
                return False
    return tokens <= ABSURD_FACTOR * estimate.most + ABSURD_SLACK
