"""Counting: every request that was due is exactly one of good, refused and error."""

import pytest

from loadtest.generator import Answer, Ending
from loadtest.requests import Shot
from loadtest.tester.tally import (
    FIRST_BYTE,
    FRAME_GAP,
    REFUSAL,
    SEND_LAG,
    TOTAL,
    Kind,
    Recorder,
    Tally,
    kind_of,
    name_of,
)


def answer(
    *,
    ending: Ending = "whole",
    status: int = 200,
    code: str = "",
    intended: float = 10.0,
    took: float = 0.5,
    gaps: tuple[float, ...] = (),
) -> Answer:
    first = intended + took / 2
    return Answer(
        Shot(b""), ending, status, code, intended, intended, first, intended + took, list(gaps)
    )


def recorder() -> Recorder:
    return Recorder(begin_s=10.0, end_s=20.0, slice_s=1.0)


@pytest.mark.parametrize(
    ("given", "kind", "name"),
    [
        (
            answer(status=402, code="credit_balance_exhausted"),
            "refused",
            "402 credit_balance_exhausted",
        ),
        (answer(status=429, code="credit_held"), "refused", "429 credit_held"),
        (answer(status=503, code="ledger_unavailable"), "error", "503 ledger_unavailable"),
        (answer(status=401), "error", "401"),
        (answer(code="server_error"), "error", "200, then an error in the stream: server_error"),
        (answer(ending="cut"), "error", "connection cut"),
        (answer(ending="timeout", status=0), "error", "timed out"),
        (answer(ending="unfinished"), "error", "unfinished at the end"),
    ],
)
def test_what_is_not_good_counts_by_its_name(given: Answer, kind: Kind, name: str) -> None:
    assert (kind_of(given), name_of(given)) == (kind, name)


def test_a_whole_answer_below_400_is_good() -> None:
    assert kind_of(answer()) == "good"


def test_what_was_due_before_or_after_the_measured_time_is_not_counted() -> None:
    noted = recorder()
    for intended in (9.999, 20.0):
        noted.on_answer(answer(intended=intended, took=0.001))
    assert noted.tally.ended == 0


def test_answers_a_second_are_of_those_that_ended_in_the_measured_time() -> None:
    noted = recorder()
    noted.on_answer(answer(intended=9.9, took=0.5))  # due while warming up
    noted.on_answer(answer(intended=19.9, took=0.5))  # ended too late
    noted.on_answer(answer(status=402))
    noted.on_answer(answer(status=500))
    assert noted.tally.answered_inside == 2


def test_giving_up_and_never_getting_a_connection_make_no_percentile_better() -> None:
    noted = recorder()
    noted.on_answer(answer(took=0.001))
    noted.on_answer(answer(ending="timeout", status=0, took=5))
    noted.on_unsent(10.0, 17.0)
    total = noted.tally.latencies[TOTAL]
    assert total.count == 3
    assert total.percentile_ms(60) == pytest.approx(5000, rel=1e-3)
    assert total.most_ms() == pytest.approx(7000, rel=1e-3)
    assert noted.tally.kinds == {"good": 1, "error": 2}


def test_failing_fast_and_refusals_are_not_among_the_latencies_of_answers() -> None:
    noted = recorder()
    noted.on_answer(answer(status=500, took=0.001))
    noted.on_answer(answer(ending="cut", took=0.001))
    noted.on_answer(answer(status=402, took=0.002))
    assert noted.tally.latencies[TOTAL].count == 0
    assert noted.tally.latencies[REFUSAL].percentile_ms(50) == pytest.approx(2, rel=1e-3)


def test_slices_are_by_when_requests_were_due() -> None:
    noted = recorder()
    noted.on_answer(answer(intended=12.5, took=3))
    [(number, part)] = noted.tally.slices.items()
    assert (number, part.kinds["good"]) == (2, 1)


def test_tallies_of_several_processes_add_up() -> None:
    noted, whole = recorder(), Tally()
    for gaps in ((0.01, 0.02), (0.03,)):
        noted.on_answer(answer(gaps=gaps))
        noted.on_due(0.001)
        whole.add(noted.take())
    assert whole.kinds["good"] == 2
    assert whole.latencies[FRAME_GAP].count == 3
    assert whole.latencies[FIRST_BYTE].count == 2
    assert whole.latencies[SEND_LAG].count == 2
    assert whole.slices[0].total.count == 2
    assert noted.tally.ended == 0
