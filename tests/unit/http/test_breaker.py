"""A circuit breaker by a clock that the test sets."""

import pytest

from gateway.http.breaker import Breaker, BreakerLimits

LIMITS = BreakerLimits(
    consecutive_most=3, failure_ratio=0.5, requests_least=10, window_s=10.0, open_s=5.0
)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(LIMITS)
    assert [breaker.fail(now) for _ in range(3)] == [False, False, True]
    return breaker


def test_failures_in_a_row_open_it_until_its_time_has_passed() -> None:
    breaker = opened(100.0)
    assert breaker.state == "open"
    assert not breaker.admits(104.9)
    assert (breaker.wait_s(100.0), breaker.wait_s(100.5), breaker.wait_s(104.9)) == (5, 5, 1)
    assert breaker.admits(105.0)
    assert breaker.state == "open", "until a request comes"


def test_a_success_between_starts_the_row_over() -> None:
    breaker = Breaker(LIMITS)
    for now in range(0, 60, 11):  # each in a window of its own
        assert not breaker.fail(now)
        assert not breaker.fail(now)
        breaker.successes += 1
    assert breaker.state == "closed"


def test_failures_in_a_row_count_across_windows() -> None:
    breaker = Breaker(LIMITS)
    assert [breaker.fail(now) for now in (0.0, 100.0, 200.0)] == [False, False, True]


def mixed(ended: int, every: int, pause_s: float = 0.0) -> Breaker:
    """One failure in each `every` requests, until it opens or so many have ended."""
    breaker = Breaker(LIMITS)
    for number in range(ended):
        if number % every == 0:
            if breaker.fail(number * pause_s):
                break
        else:
            breaker.successes += 1
    return breaker


def test_a_share_of_failures_opens_it_once_enough_requests_have_ended() -> None:
    assert mixed(9, every=2).state == "closed"
    assert mixed(20, every=2).state == "open"
    assert mixed(1000, every=3).state == "closed", "a third is less than half"
    assert mixed(1000, every=2, pause_s=1.5).state == "closed", "7 in a window are too few"


def test_half_open_lets_one_request_through_and_its_success_closes() -> None:
    breaker = opened()
    probe = breaker.probe(5.0)
    assert probe
    half_open: str = breaker.state
    assert half_open == "half_open"
    assert not breaker.admits(5.1)
    breaker.close()
    assert breaker.state == "closed"
    assert breaker.probe(5.2) == 0, "an ordinary request"
    assert [breaker.fail(5.3), breaker.fail(5.3)] == [False, False], "the row starts over"


def test_the_failure_of_the_probe_opens_it_again() -> None:
    breaker = opened()
    assert breaker.fail(5.5, breaker.probe(5.0))
    assert breaker.state == "open"
    assert not breaker.admits(10.4)
    assert breaker.admits(10.5)


def test_late_failures_of_requests_that_are_no_probe_change_nothing() -> None:
    breaker = opened()
    assert not breaker.fail(4.0)
    assert breaker.admits(5.0)
    probe = breaker.probe(5.0)
    assert not breaker.fail(5.1)
    assert breaker.state == "half_open"
    assert breaker.fail(5.2, probe)


def test_a_probe_without_a_result_makes_room_for_the_next() -> None:
    breaker = opened()
    breaker.drop(breaker.probe(5.0))
    assert breaker.admits(5.0)
    assert breaker.state == "half_open"


def test_a_probe_that_takes_too_long_is_followed_by_another_and_counts_no_more() -> None:
    breaker = opened()
    slow = breaker.probe(5.0)
    assert not breaker.admits(9.9)
    assert breaker.admits(10.0)
    second = breaker.probe(10.0)
    assert not breaker.fail(10.1, slow)
    breaker.drop(slow)
    assert not breaker.admits(10.1), "the second probe is out"
    assert breaker.fail(10.2, second)


def test_one_that_is_turned_off_stays_closed() -> None:
    breaker = Breaker(BreakerLimits(enabled=False))
    assert not any(breaker.fail(0.0) for _ in range(100))
    assert breaker.admits(0.0)


@pytest.mark.parametrize(("asked", "until"), [(2.0, 2.0), (600.0, 60.0)])
def test_it_rests_as_long_as_it_is_asked_and_no_longer_than_a_minute(
    asked: float, until: float
) -> None:
    breaker = Breaker()
    breaker.rest(100.0, asked)
    assert breaker.rests(100.0 + until - 0.01)
    assert not breaker.rests(100.0 + until)
    assert breaker.state == "closed"
    assert breaker.admits(100.0), "resting is a preference"
