"""Which upstream the next request goes to."""

from collections import Counter
from itertools import groupby

from gateway.dialects.base import ForwardOptions
from gateway.flow.headers import Forwarding
from gateway.flow.spread import Spread, Target
from gateway.http.interface import Breaker
from tests.flow.desk import Unasked


class Named(Unasked):
    """An upstream with a breaker that is not shared with others."""

    def __init__(self) -> None:
        self.breaker = Breaker()


def spread(*weights: int) -> Spread:
    return Spread(
        [Target(Named(), Forwarding(), ForwardOptions("m"), weight=weight) for weight in weights]
    )


def breaker(of: Spread, place: int) -> Breaker:
    return of.targets[place].upstream.breaker


def shares(of: Spread, count: int, now: float = 0.0) -> dict[int | None, int]:
    return dict(Counter(of.choose(now) for _ in range(count)))


def test_shares_are_exactly_the_weights() -> None:
    assert shares(spread(5, 3, 2), 1000) == {0: 500, 1: 300, 2: 200}


def test_turns_are_not_bunched() -> None:
    turns = [spread_of_two.choose(0.0) for spread_of_two in [spread(3, 1)] for _ in range(40)]
    assert max(len(list(run)) for _, run in groupby(turns)) == 3


def test_weight_zero_gets_only_what_no_other_admits() -> None:
    both = spread(1, 0)
    assert shares(both, 100) == {0: 100}
    for _ in range(5):
        breaker(both, 0).fail(0.0)
    assert shares(both, 100) == {1: 100}
    assert shares(both, 100, now=10.0) == {0: 100}, "its time has passed"


def test_an_open_one_s_share_goes_to_the_others_by_weight() -> None:
    three = spread(2, 1, 1)
    for _ in range(5):
        breaker(three, 0).fail(0.0)
    assert shares(three, 100) == {1: 50, 2: 50}


def test_none_is_chosen_when_all_are_open_and_the_wait_is_the_shortest() -> None:
    both = spread(1, 1)
    for place, at in (0, 0.0), (1, 4.0):
        for _ in range(5):
            breaker(both, place).fail(at)
    assert both.choose(5.0) is None
    assert both.wait_s(5.0) == 5


def test_one_that_rests_is_passed_over_unless_all_do() -> None:
    both = spread(3, 1)
    breaker(both, 0).rest(0.0, 30.0)
    assert shares(both, 10) == {1: 10}
    breaker(both, 1).rest(0.0, 30.0)
    assert set(shares(both, 12)) == {0, 1}


def test_places_that_were_tried_are_left_out() -> None:
    three = spread(1, 1, 0)
    assert three.choose(0.0, (0,)) == 1
    assert three.choose(0.0, (0, 1)) == 2
    assert three.choose(0.0, (0, 1, 2)) is None
