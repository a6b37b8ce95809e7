"""What a request is charged when it ends: a pure function of what was seen.

How the request ended is decided first; only then whether usage is present, missing or absurd. What
the provider did not report is never charged beyond the hold. `OUTCOMES` has one row for each way
out, in order of precedence; `docs/reference/outcomes.md` prints the same rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.usage import UsageSource
from gateway.flow.reservation.ended import (
    ABSURD,
    MISSING,
    UNDRAINED,
    UNREADABLE,
    Ended,
    Outcome,
    Reading,
)
from gateway.flow.reservation.seen_usage import TOKEN_SIDES, seen_usage, side_of


@dataclass(frozen=True, slots=True)
class Row:
    """One way out.

    when:    the condition, as the documentation says it; the rows above come first
    charged: what is charged, as the documentation says it
    applies, outcome: the same in code
    """

    name: str
    when: str
    charged: str
    applies: Callable[[Reading], bool]
    outcome: Callable[[Reading], Outcome]


def decide(ended: Ended) -> Outcome:
    """The outcome by the first row that applies."""
    reading = Reading(ended)
    # Nearly all requests are complete and reported: no row above that one applies to them.
    plain = reading.reported and not (reading.failed or reading.missing)
    if plain and ended.stage == "complete" and not ended.model.free:
        return _reported(reading)
    for row in OUTCOMES:
        if row.applies(reading):
            return row.outcome(reading)
    raise AssertionError("the last row applies to everything")


# What a row charges


def _release(_: Reading) -> Outcome:
    return Outcome("release", {}, None)


def _reported(of: Reading) -> Outcome:
    facts = of.ended.facts
    return Outcome("settle", seen_usage(facts, of.ended.estimate), facts.source, facts.flags)


def _hold(of: Reading, flags: tuple[str, ...] = ()) -> Outcome:
    ended = of.ended
    return Outcome("settle", ended.estimate.held_usage(ended.model), "estimated", flags)


def _free(_: Reading) -> Outcome:
    return Outcome("settle", {}, None)


def _unreadable(of: Reading) -> Outcome:
    return _hold(of, (UNREADABLE,))


def _left_hold(of: Reading) -> Outcome:
    return _hold(of, (UNDRAINED,) if of.undrained else ())


def _learned(of: Reading) -> Outcome:
    learned = of.ended.learned_output()
    if learned is None:
        return _left_hold(of)
    output = min(learned, of.ended.estimate.held_output)
    return _left(of, output)


def _left(of: Reading, output: int = 0) -> Outcome:
    ended = of.ended
    usage = seen_usage(ended.facts, ended.estimate, usable=of.usable, output=output)
    if of.undrained:
        return Outcome("settle", usage, "estimated", (UNDRAINED,))
    return Outcome("settle", usage, "counted")


def _left_counted(of: Reading) -> Outcome:
    # A complete piece that waits for the hold to grow has been counted, and not passed on.
    ended = of.ended
    counted = int(min(ended.facts.counted_output, ended.passed_output))
    facts = replace(ended.facts, counted_output=counted)
    usage = seen_usage(facts, ended.estimate, usable=of.usable)
    return Outcome("settle", usage, "counted", of.report_flags)


def _cut(of: Reading) -> Outcome:
    # What the last piece had beyond the hold was not passed on: it is not charged.
    ended = of.ended
    usage = seen_usage(ended.facts, ended.estimate, usable=of.usable, cut=True)
    return Outcome("settle", usage, "counted", of.report_flags)


def _seen(of: Reading, source: UsageSource = "counted", *more_flags: str) -> Outcome:
    usage = seen_usage(of.ended.facts, of.ended.estimate, usable=of.usable)
    return Outcome("settle", usage, source, (*of.report_flags, *more_flags))


def _absurd(of: Reading) -> Outcome:
    return _seen(of, "estimated")


def _missing_counted(of: Reading) -> Outcome:
    return _seen(of, "counted", MISSING)


def _missing_hold(of: Reading) -> Outcome:
    """The hold in place of what is missing: all of it where nothing was reported."""
    seen = _seen(of, "estimated", MISSING)
    held = of.ended.estimate.held_usage(of.ended.model)
    missing = of.missing
    if missing >= TOKEN_SIDES:
        usage = held
    else:
        known = {unit: n for unit, n in seen.usage.items() if side_of(unit) not in missing}
        usage = {**known, **{unit: held[unit] for unit in held if side_of(unit) in missing}}
    return replace(seen, usage=usage)


OUTCOMES: Final[tuple[Row, ...]] = (
    Row(
        "nothing_delivered",
        "the upstream failed or refused, or the operator ended the request; nothing was delivered,"
        " and no usage was reported",
        "nothing; the hold is released",
        lambda of: of.failed and not of.usable and not of.delivered,
        _release,
    ),
    Row(
        "free",
        "the route is free",
        "nothing; the event has the amount 0",
        lambda of: of.ended.model.free,
        _free,
    ),
    Row(
        "left_charge_hold",
        "the client left; the policy is `charge_hold`, or the model reasons before it shows output",
        "the hold",
        lambda of: (
            bool(of.left_by) and (of.left_by == "charge_hold" or of.ended.model.hidden_output)
        ),
        _left_hold,
    ),
    Row(
        "left_unreadable",
        "the client left a response that could not be decoded; the policy is not `charge_input`",
        "the hold",
        lambda of: (
            bool(of.left_by)
            and of.ended.facts.unreadable is not None
            and of.left_by != "charge_input"
        ),
        _unreadable,
    ),
    Row(
        "left_undrained_hold",
        "the client left before a response that does not stream, and the policy could not drain it;"
        " `undrained: hold`",
        "the hold",
        lambda of: of.undrained and of.ended.policy.undrained == "hold",
        _left_hold,
    ),
    Row(
        "left_undrained_expected",
        "the same with `undrained: expected`",
        "the input, and the output that such responses usually have, at most the hold; the hold"
        " while too few have ended",
        lambda of: of.undrained and of.ended.policy.undrained == "expected",
        _learned,
    ),
    Row(
        "left_undrained_input",
        "the same with `undrained: input`",
        "the input",
        lambda of: of.undrained,
        _left,
    ),
    Row(
        "left_drained_hold",
        "the client left a stream that was drained without a final report; `disconnect_stream:"
        " drain` and `missing_usage: hold`",
        "the hold",
        lambda of: of.left_by == "drain" and of.ended.policy.missing_usage == "hold",
        _left_hold,
    ),
    Row(
        "left_counted",
        "the client left a stream; the policy is not `charge_input`",
        "what was counted or reported of what passed",
        lambda of: bool(of.left_by) and of.ended.streaming and of.left_by != "charge_input",
        _left_counted,
    ),
    Row(
        "left_input",
        "the client left; the policy is `charge_input`",
        "the input",
        lambda of: bool(of.left_by),
        _left,
    ),
    Row(
        "cut",
        "the gate ended the stream because the credit was exhausted, or the operator ended it"
        " before a final report",
        "what was counted or reported, at most the hold",
        lambda of: of.ended.stage == "cut" or (of.ended.stage == "killed" and not of.reported),
        _cut,
    ),
    Row(
        "unreadable",
        "the response could not be decoded, and no final usage was reported",
        "the hold",
        lambda of: of.ended.facts.unreadable is not None and not of.reported,
        _unreadable,
    ),
    Row(
        "reported",
        "the provider reported the final usage, and nothing that has a price is missing",
        "what was reported, also beyond the hold",
        lambda of: of.reported and not of.missing,
        _reported,
    ),
    Row(
        "absurd",
        "a figure of the provider is impossible, and no other report gives it",
        "what was counted, at most the hold",
        lambda of: ABSURD in of.report_flags,
        _absurd,
    ),
    Row(
        "counted",
        "the response failed after a part of it was delivered, or everything with a price was"
        " counted",
        "what was counted or reported, at most the hold",
        lambda of: of.failed or not of.missing,
        _seen,
    ),
    Row(
        "missing_counted",
        "the response is complete without a usable report; `missing_usage: counted`",
        "what was counted, at most the hold",
        lambda of: of.ended.policy.missing_usage == "counted",
        _missing_counted,
    ),
    Row(
        "missing_hold",
        "the same with `missing_usage: hold`",
        "the hold in place of what is missing",
        lambda _: True,
        _missing_hold,
    ),
)
"""Every way out, in order of precedence."""
