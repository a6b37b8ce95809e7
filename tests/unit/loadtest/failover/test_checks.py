"""What was served against what was charged, and which differences a failure explains."""

from loadtest.chaos import ChaosReport
from loadtest.failover.checks import Event, Loss, Span, compare
from loadtest.generator import Outcome, Result
from loadtest.served import Row

SPANS = [Span("killed", 100.0, 102.0)]


def report(**served: tuple[int, float]) -> ChaosReport:
    """Requests with the output tokens served, and when they ended."""
    result, rows = Result(), []
    for number, (name, (output, ended_s)) in enumerate(served.items()):
        rows.append(Row(name, f"client-{name}", number, "chat", output=output, state="complete"))
        result.outcomes.append(Outcome(f"client-{name}", 200, "whole", 0, ended_s - 1, ended_s))
    return ChaosReport([], result, rows, 0, 0.0)


def settled(request_id: str, tokens: int, kind: str = "settle") -> Event:
    return Event(f"{request_id}:{kind}", kind, request_id, tokens)


def test_what_is_charged_in_full_is_neither_lost_nor_wrong() -> None:
    events = [settled("a", 5), settled("b", 2, "expire"), settled("b", 6, "settle_late")]
    assert compare(report(a=(5, 50), b=(6, 101)), events, SPANS) == ([], [])


def test_what_a_failure_lost_is_named_with_its_cause() -> None:
    losses, wrong = compare(
        report(gone=(5, 101), part=(7, 99.5)), [settled("part", 3, "expire")], SPANS
    )
    assert losses == [Loss("gone", 5, 0, "killed"), Loss("part", 7, 3, "killed")]
    assert wrong == []


def test_what_no_failure_explains_is_wrong() -> None:
    twice = [
        settled("twice", 1),
        settled("twice", 1),
        settled("ends", 1),
        settled("ends", 0, "release"),
    ]
    more = [settled("more", 9)]
    _, wrong = compare(
        report(early=(5, 50), twice=(2, 101), ends=(1, 101), more=(5, 101)), twice + more, SPANS
    )
    assert wrong == [
        "event twice:settle is in the store 2 times",
        "twice has 2 terminal events",
        "ends has 2 terminal events",
        "early was charged 0 of 5, and nothing failed",
        "more was served 5 tokens and charged 9",
    ]
