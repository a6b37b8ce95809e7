"""What a request is charged when it ends: a pure function of what was seen.

How the request ended is decided first; only then whether usage is present, missing or absurd. What
the provider did not report is never charged beyond the hold.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

from gateway.dialects.base import AnswerFacts
from gateway.domain.usage import (
    OUTPUT_UNITS,
    TOKEN_UNITS,
    Usage,
    UsageSource,
    usage_in_tier,
    without_tier,
)
from gateway.flow.catalog import Model, Policy
from gateway.flow.estimate import Bound
from gateway.flow.reservation.pending_settlement import Verb

Stage = Literal[
    "unsent",  # the upstream has received nothing
    "sent",  # the upstream may have the request; an end here is the upstream's fault, or ours
    "whole",  # the answer is complete
    "cut",  # the gate ended the stream: the credit was exhausted
    "left",  # the client has gone
    "killed",  # the operator ended it: by a kill, or by stopping the gate
]

ABSURD_FACTOR: Final = 100
ABSURD_SLACK: Final = 1_000_000
"""Usage beyond this many times the bound, and tokens above it, is a fault of the upstream."""

_INPUT_UNITS: Final = frozenset(
    {"input", "cache_read", "cache_write", "cache_write_1h", "audio_input", "image_input"}
)
_TOKEN_SIDES: Final = frozenset({"input", "output"})
NOTHING_MISSING: Final[frozenset[str]] = frozenset()
ABSURD: Final = "usage_absurd"
UNREADABLE: Final = ("answer_unreadable",)
_NOT_WHOLE: Final[frozenset[Stage]] = frozenset({"unsent", "sent", "killed"})
"""Ends that are the upstream's fault or the operator's act: what was not delivered is not charged,
whatever the policy says of clients who leave."""


@dataclass(slots=True)
class Ended:
    """A request at its end. Never changed.

    status:          the upstream's, 0 when its head has not come
    streaming:       what the upstream answered, else what the client asked for
    passed_output:   the most output that can have been passed on
    learned_output:  gives the output that answers of this model to this customer usually have; None
                     while too few have ended
    """

    stage: Stage
    status: int
    streaming: bool
    facts: AnswerFacts
    bound: Bound
    model: Model
    policy: Policy
    passed_output: float
    learned_output: Callable[[], int | None]


@dataclass(slots=True)
class Outcome:
    """What the ledger is to do. flags: what was odd, for the event."""

    verb: Verb
    usage: Usage
    source: UsageSource | None
    flags: tuple[str, ...] = ()


def decide(ended: Ended) -> Outcome:
    """The row of the outcome table (docs/flow.md) that applies."""
    facts = ended.facts
    failed = ended.stage in _NOT_WHOLE or ended.status >= 400 or facts.error
    usable = is_usable(facts, ended.bound)
    if failed and not usable and not _delivered(ended):
        return Outcome("release", {}, None)
    reported = usable and facts.usage_final
    if ended.stage == "left" and not reported:
        return _when_gone(ended, usable=usable)
    if ended.stage == "cut" or (ended.stage == "killed" and not reported):
        # What the last piece had beyond the hold was not passed on: it is not charged.
        usage = seen_usage(facts, ended.bound, usable=usable, cut=True)
        return Outcome("settle", usage, "counted", _flags(facts, usable=usable))
    if facts.unreadable is not None and not reported:
        return Outcome("settle", ended.bound.held_usage(ended.model), "estimated", UNREADABLE)
    missing = _missing(ended, usable=usable)
    if not missing and reported:
        return Outcome("settle", seen_usage(facts, ended.bound), facts.source, facts.flags)
    flags = _flags(facts, usable=usable)
    usage = seen_usage(facts, ended.bound, usable=usable)
    if ABSURD in flags:
        return Outcome("settle", usage, "estimated", flags)
    if failed or not missing:
        return Outcome("settle", usage, "counted", flags)
    flags = (*flags, "usage_missing")
    if ended.policy.missing_usage == "counted":
        return Outcome("settle", usage, "counted", flags)
    return Outcome("settle", _with_hold(ended, usage, missing), "estimated", flags)


def _with_hold(ended: Ended, usage: Usage, missing: frozenset[str]) -> Usage:
    """The hold in place of what is missing: all of it where nothing was reported."""
    held = ended.bound.held_usage(ended.model)
    if missing >= _TOKEN_SIDES:
        return held
    known = {unit: quantity for unit, quantity in usage.items() if _side(unit) not in missing}
    return {**known, **{unit: held[unit] for unit in held if _side(unit) in missing}}


def seen_usage(
    facts: AnswerFacts,
    bound: Bound,
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
    held = bound.held_output
    usage: dict[str, int] = {"request": 1, **bound.other_certain}
    for unit, quantity in facts.counted.items():
        usage[unit] = min(quantity, bound.other_most.get(unit, quantity))
    if usable and facts.usage is not None:
        usage.update(facts.usage)
    if not (usable and facts.input_reported):
        usage["input"] = bound.input_count
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
    calls = min(facts.hosted_calls, bound.tool_calls)
    if calls > usage.get("tool_call", 0):
        usage["tool_call"] = calls
    return usage_in_tier(usage, bound.tiers[0])


def _take_away(usage: dict[str, int], surplus: int) -> None:
    for unit in OUTPUT_UNITS:
        taken = min(surplus, usage.get(unit, 0))
        surplus -= taken
        usage[unit] = usage.get(unit, 0) - taken


def _delivered(ended: Ended) -> bool:
    """Whether any of the answer can have reached the client."""
    if ended.status >= 400 or ended.stage == "unsent":
        return False
    facts = ended.facts
    if facts.unreadable is not None:
        return ended.streaming or ended.stage == "whole"
    seen = facts.counted_output > 0 or facts.hosted_calls > 0
    return seen and (ended.streaming or ended.stage == "whole")


def _when_gone(ended: Ended, *, usable: bool) -> Outcome:
    """The client has left. What has begun to reason unseen is never charged as if it had not."""
    facts, bound, policy = ended.facts, ended.bound, ended.policy
    by = policy.disconnect_stream if ended.streaming else policy.disconnect_json
    undrained = by == "drain" and not ended.streaming
    flags: tuple[str, ...] = ("undrained",) if undrained else ()
    hold = Outcome("settle", bound.held_usage(ended.model), "estimated", flags)
    if by == "charge_hold" or ended.model.hidden_output:
        return hold
    if facts.unreadable is not None and by != "charge_input":
        return Outcome("settle", hold.usage, "estimated", UNREADABLE)
    output = 0
    if undrained and policy.undrained != "input":
        learned = ended.learned_output() if policy.undrained == "expected" else None
        if learned is None:
            return hold
        output = min(learned, bound.held_output)
    elif ended.streaming and by == "drain" and policy.missing_usage == "hold":
        return hold
    elif ended.streaming and by != "charge_input":
        # A complete piece that waits for the hold to grow has been counted, and not passed on.
        counted = int(min(facts.counted_output, ended.passed_output))
        usage = seen_usage(replace(facts, counted_output=counted), bound, usable=usable)
        return Outcome("settle", usage, "counted", _flags(facts, usable=usable))
    usage = seen_usage(facts, bound, usable=usable, output=output)
    return Outcome("settle", usage, "estimated" if undrained else "counted", flags)


def _flags(facts: AnswerFacts, *, usable: bool) -> tuple[str, ...]:
    """What is odd about the reports. A figure that is impossible, and that no other report gives, is
    absurd; what is merely absent is not."""
    flags = facts.flags if usable else ()
    unreasonable = facts.usage is not None and not usable
    incomplete = not (facts.input_reported and facts.output_reported)
    if unreasonable or (incomplete and facts.usage_problem is not None):
        return (*flags, ABSURD)
    return flags


def _missing(ended: Ended, *, usable: bool) -> frozenset[str]:
    """What is priced and was neither reported nor counted: "input", "output", other units."""
    facts, bound = ended.facts, ended.bound
    reports_both = facts.input_reported and facts.output_reported and facts.usage_final
    if usable and reports_both and not ended.model.other_units:
        return NOTHING_MISSING
    missing = set()
    reported = facts.usage if usable and facts.usage is not None else {}
    for side in map(_side, ended.model.prices.units):
        if side == "input":
            known = (usable and facts.input_reported) or not bound.input
        elif side == "output":
            silent = not facts.counted_output
            known = usable and facts.usage_final and (facts.output_reported or silent)
        else:
            known = side not in ended.model.other_units or side in facts.counted or side in reported
        if not known:
            missing.add(side)
    return frozenset(missing)


def _side(unit: str) -> str:
    """What a unit is a part of: "input", "output", or itself."""
    plain = without_tier(unit)
    return "input" if plain in _INPUT_UNITS else "output" if plain in OUTPUT_UNITS else plain


def is_usable(facts: AnswerFacts, bound: Bound) -> bool:
    """Whether usage was reported, and is within reason for this request."""
    if facts.usage is None:
        return False
    tokens = 0
    for unit, quantity in facts.usage.items():
        if unit in TOKEN_UNITS:
            tokens += quantity
        elif quantity > ABSURD_FACTOR:
            held = bound.tool_calls if unit == "tool_call" else bound.other_most.get(unit, 0)
            if quantity > ABSURD_FACTOR * max(1, held):
                return False
    return tokens <= ABSURD_FACTOR * bound.most + ABSURD_SLACK
