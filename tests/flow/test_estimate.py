"""The bound: what a request can cost at most, and what of it is held."""

from dataclasses import replace
from typing import Any

import pytest

from gateway.dialects import DIALECTS
from gateway.dialects.base import (
    BadRequest,
    ForwardOptions,
    MediaKind,
    ReadOptions,
    RequestFacts,
    Unmeasured,
)
from gateway.domain.pricing import PriceTable, compile_prices
from gateway.domain.reservation import Account
from gateway.flow.catalog import Catalog, Model, Policy, Route
from gateway.flow.estimate import estimate_request, scope_of
from gateway.flow.headers import Forwarding
from gateway.flow.plan import Plan
from gateway.settings.policy import PRESETS, PolicySection

from .desk import Unasked

PRICES = compile_prices(
    {"input": 2000, "cache_write": 2500, "output": 5000, "reasoning": 9000, "tool_call": 10**9}
)


def model(prices: PriceTable = PRICES, **changes: Any) -> Model:
    given: dict[str, Any] = {"max_output_tokens": 1000, "context_tokens": None, **changes}
    return Model(
        "m", Unasked(), Forwarding(), ForwardOptions("m"), prices, hidden_output=False, **given
    )


def policy(preset: str = "balanced", **knobs: Any) -> Policy:
    return PolicySection(**knobs).resolve(PRESETS[preset]).flow()  # type: ignore[index]


def facts(**changes: Any) -> RequestFacts:
    given: dict[str, Any] = {"stream": False, "input_bound": 100, "output_bound": None, **changes}
    return RequestFacts("m", **given)


def plan(of: Model, knobs: Policy) -> Plan:
    """How requests of the customer acme for this model run."""
    route = Route("/v1/x", frozenset({"POST"}), DIALECTS["openai_chat"], ReadOptions(), knobs)
    catalog = Catalog({}, {of.name: of}, DIALECTS["generic"], max_body_bytes=1_000_000)
    return Plan(catalog, Account("acme", "k1", 0, 1), route, of)


@pytest.mark.parametrize(
    ("asked", "choices", "default", "output"),
    [
        (None, 1, None, 1000),
        (None, 3, None, 3000),
        (50, 1, None, 50),
        (50, 4, None, 200),
        (None, 1, 300, 300),
        (None, 2, 300, 600),
        (None, 1, 5000, 1000),
        (50, 1, 10, 50),
        (0, 1, None, 0),
    ],
)
def test_output_is_bounded_by_the_caller_else_the_policy_else_the_model(
    asked: int | None, choices: int, default: int | None, output: int
) -> None:
    asks = facts(output_bound=asked, choices=choices)
    knobs = policy(default_max_output_tokens=default)
    bound = estimate_request(asks, model(), knobs)
    assert bound.output == bound.held_output == output
    told = plan(model(), knobs).forward_options(asks, None).max_output
    assert told == (None if asked is not None or default is None else output // choices)


def test_more_than_the_model_can_give_is_refused_and_not_clamped() -> None:
    with pytest.raises(BadRequest, match="at most 1000 tokens, but 1001"):
        estimate_request(facts(output_bound=1001), model(), policy())


def test_streams_hold_a_part_at_first_and_other_requests_all() -> None:
    knobs = policy(hold_output_tokens=64)
    assert estimate_request(facts(stream=True), model(), knobs).held_output == 64
    assert estimate_request(facts(stream=False), model(), knobs).held_output == 1000
    assert estimate_request(facts(stream=True, output_bound=20), model(), knobs).held_output == 20
    whole = policy(exhausted_stream="reserve_max")
    assert estimate_request(facts(stream=True), model(), whole).held_output == 1000


def test_the_context_window_caps_each_reading_of_it() -> None:
    capped = model(context_tokens=60)
    assert estimate_request(facts(), capped, policy()).input == 60
    assert estimate_request(facts(readings=3, input_bound=500), capped, policy()).input == 180
    assert estimate_request(facts(choices=3, input_bound=500), capped, policy()).input == 60


@pytest.mark.parametrize("kind", ["image", "document", "video", "audio"])
def test_what_the_body_does_not_measure_is_bounded_by_the_context(kind: MediaKind) -> None:
    film = Unmeasured(kind, "messages[0].content[1]")
    given = facts(unmeasured=film, input_own=80, readings=2)
    bound = estimate_request(given, model(context_tokens=5000), policy())
    assert bound.input == 10_000
    with pytest.raises(BadRequest) as refused:
        estimate_request(given, model(context_tokens=None), policy())
    assert refused.value.param == "messages[0].content[1]"
    assert f"`media_tokens.{kind}`" in refused.value.message
    assert "`context_tokens` of the model `m`" in refused.value.message


def test_what_nothing_measures_is_not_read_without_end() -> None:
    film = Unmeasured("video", "prompt[0]")
    capped = model(context_tokens=10)
    assert estimate_request(facts(unmeasured=film, readings=128), capped, policy()).input == 1280
    with pytest.raises(BadRequest, match="read 129 times"):
        estimate_request(facts(unmeasured=film, readings=129), capped, policy())


def test_what_the_provider_keeps_is_bounded_by_the_context_alone() -> None:
    given = facts(unmeasured=Unmeasured("stored", "previous_response_id"))
    with pytest.raises(BadRequest) as refused:
        estimate_request(given, model(context_tokens=None), policy())
    assert "media_tokens" not in refused.value.message


def test_the_scope_of_a_customer_is_stable_and_does_not_name_it() -> None:
    assert scope_of("acme") == scope_of("acme") != scope_of("acme2")
    assert len(scope_of("acme")) == 16
    named = facts(document={"user": "u"})
    assert plan(model(), policy()).forward_options(named, None).customer_scope == scope_of("acme")
    assert plan(model(), policy()).forward_options(facts(), None).customer_scope is None


def test_the_count_of_the_input_is_rounded_up() -> None:
    assert estimate_request(facts(input_bound=9), model(), policy()).input_count == 3
    knobs = policy(bytes_per_token=2)
    assert estimate_request(facts(input_bound=9), model(), knobs).input_count == 5


def test_the_hold_takes_the_dearest_class_that_could_apply() -> None:
    bound = estimate_request(facts(), model(), policy())
    assert bound.held_usage(model()) == {"request": 1, "cache_write": 100, "reasoning": 1000}
    assert bound.tokens == 1100
    with_tools = replace(bound, tool_calls=2)
    assert with_tools.held_usage(model())["tool_call"] == 2


@pytest.mark.parametrize(
    ("charges", "expected"),
    [
        ("checkpoint", {"input": 5}),
        ("hold", {"request": 1, "cache_write": 100, "reasoning": 1000}),
        ("nothing", {}),
    ],
)
def test_what_an_expiry_charges_is_the_policy_s(charges: str, expected: dict[str, int]) -> None:
    bound = estimate_request(facts(), model(), policy())
    assert bound.checkpoint_usage(model(), policy(expire_charges=charges), {"input": 5}) == expected


def test_a_count_never_passes_its_bound() -> None:
    for size in range(1, 200):
        bound = estimate_request(facts(input_bound=size, output_bound=7), model(), policy())
        counted, held = bound.counted_usage(7), bound.held_usage(model())
        assert counted["input"] <= held["cache_write"]
        assert counted["output"] <= held["reasoning"]
