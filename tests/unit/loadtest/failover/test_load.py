"""When customers were admitted, and for how long they were not."""

from loadtest.failover.load import Admissions


def noted(**heads_s: list[float]) -> Admissions:
    admissions = Admissions(list(heads_s))
    for key, each in heads_s.items():
        for head_s in each:
            admissions.note(key, head_s - 0.5, head_s)
    return admissions


def test_gaps_are_measured_for_all_together_and_for_each() -> None:
    admissions = noted(a=[1, 2, 9, 10], b=[10, 5, 1])  # b's answers ended in another order
    assert admissions.nobody_s(0, 20) == 4
    assert admissions.somebody_not_s(0, 20) == 7


def test_of_a_gap_that_reaches_into_a_span_the_part_within_it_counts() -> None:
    admissions = noted(a=[1, 2, 9, 10, 20])
    assert admissions.nobody_s(3, 9.5) == 6
    assert admissions.nobody_s(1, 5) == 3
    assert admissions.nobody_s(9.25, 9.75) == 0.5
    assert admissions.nobody_s(21, 30) == 0


def test_only_what_was_sent_after_a_moment_says_that_it_is_served_since() -> None:
    admissions = noted(a=[10.2], b=[11])
    assert admissions.all_since(9.6)
    assert not admissions.all_since(10), "that one was sent before and answered after"
