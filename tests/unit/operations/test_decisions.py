"""What would have let a refused request through."""

import pytest

from gateway.ledger.codec.refusals import RefusedRequest
from gateway.operations.decisions import RefusalFilter, remedies

CREDIT = 10**9


def refused(reason: str, **more: object) -> RefusedRequest:
    return RefusedRequest("r", reason, 402, **more)  # type: ignore[arg-type]


def test_missing_credit_is_named_exactly_and_so_is_a_request_that_would_fit() -> None:
    found = remedies(
        refused("insufficient_credits", estimate_nano=4 * CREDIT, available_nano=CREDIT)
    )
    assert found[0].startswith("3 more credits")
    assert "at most 1 credits, 25 % of this one" in found[1]


def test_without_anything_available_no_smaller_request_is_proposed() -> None:
    found = remedies(refused("insufficient_credits", estimate_nano=4, available_nano=0))
    assert len(found) == 1


def test_a_limit_is_named() -> None:
    for reason in ("spend_limit", "rate_limit", "concurrency_limit"):
        found = remedies(refused(reason, limit="key k (tokens per minute)"))
        assert any("key k (tokens per minute)" in each for each in found)


@pytest.mark.parametrize("reason", ["wallet_frozen", "bad_key", "unknown_model", "went_back"])
def test_refusals_that_are_not_about_money_have_a_way_out(reason: str) -> None:
    assert remedies(refused(reason))


def test_a_filter_passes_what_it_names() -> None:
    one = RefusedRequest("r", "bad_key", 401, "acme", "k", model="m")
    assert RefusalFilter().passes(one)
    assert RefusalFilter("acme", "k", "m", "bad_key", 401).passes(one)
    for other in (RefusalFilter("b"), RefusalFilter(key_id="x"), RefusalFilter(status=402)):
        assert not other.passes(one)
