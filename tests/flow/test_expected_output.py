"""What an answer is expected to have: a quantile of those that have ended."""

import math
import random

import pytest

from gateway.flow import expected_output as module
from gateway.flow.expected_output import ENOUGH, MOST_SEEN, ExpectedOutput


def learned(outputs: list[int], customer: str = "acme", model: str = "m") -> ExpectedOutput:
    seen = ExpectedOutput()
    for output in outputs:
        seen.note(customer, model, output)
    return seen


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.2])
def test_no_less_than_the_quantile_and_at_most_nine_percent_more(
    share: float, sigma: float
) -> None:
    dice = random.Random(3)
    outputs = [max(1, int(150 * math.exp(sigma * dice.gauss(0, 1)))) for _ in range(1000)]
    exact = sorted(outputs)[math.ceil(share * len(outputs)) - 1]
    found = learned(outputs).output("acme", "m", share)
    assert found is not None
    assert exact <= found <= exact * 2 ** (1 / 8) + 1


@pytest.mark.parametrize("output", [0, 1, 2, 3, 7, 8, 1000, 4096, 16_777_216])
def test_one_size_alone_is_found_whole(output: int) -> None:
    found = learned([output] * ENOUGH).output("acme", "m", 0.95)
    assert found is not None
    assert max(1, output) <= found <= output * 1.1 + 1


def test_beyond_the_last_bucket_is_the_last_bucket() -> None:
    assert learned([10**9] * ENOUGH).output("acme", "m", 0.95) is not None


def test_nothing_is_said_before_enough_were_seen() -> None:
    seen = learned([100] * (ENOUGH - 1))
    assert seen.output("acme", "m", 0.95) is None
    seen.note("acme", "m", 100)
    assert seen.output("acme", "m", 0.95) is not None
    assert seen.output("acme", "other", 0.95) is None


def test_of_a_new_customer_all_customers_of_the_model_are_asked() -> None:
    seen = learned([100] * ENOUGH)
    assert seen.output("new", "m", 0.95) == seen.output("acme", "m", 0.95)
    for _ in range(ENOUGH):
        seen.note("new", "m", 3000)
    own, first = seen.output("new", "m", 0.95), seen.output("acme", "m", 0.95)
    assert own is not None
    assert first is not None
    assert first < 120 < 2999 < own


def test_old_answers_fade() -> None:
    seen = learned([4000] * MOST_SEEN + [100] * 2 * MOST_SEEN)
    half = seen.output("acme", "m", 0.5)
    assert half is not None
    assert half < 120
    whole = seen.output("acme", "m", 0.7)
    assert whole is not None
    assert whole < 120, "what is three halvings old is an eighth"


def test_the_pair_not_met_for_the_longest_time_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_PAIRS", 3)
    seen = learned([100] * ENOUGH, "one")
    for _ in range(ENOUGH):
        seen.note("two", "m", 9000)
    assert len(seen._seen) == 3
    seen.note("three", "m", 9000)
    assert ("one", "m") not in seen._seen
    assert {("", "m"), ("two", "m"), ("three", "m")} == set(seen._seen)


def test_who_keeps_counting_is_learned_again_after_it_was_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_PAIRS", 4)
    seen = ExpectedOutput()
    kept = [seen.outputs_of("acme", "m") for _ in range(2)]  # of two plans
    for customer in range(4):
        seen.note(f"other-{customer}", "n", 5)
    assert seen.output("acme", "m", 0.5) is None
    for _ in range(ENOUGH):
        for outputs in kept:
            outputs.note(100)
    assert seen.output("acme", "m", 0.5) is not None
