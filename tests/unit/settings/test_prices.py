"""Prices in a configuration: shapes, markups, overrides, and what is wrong with them."""

import pytest

from gateway.domain.pricing import Tier
from tests.unit.settings.conftest import RIGHT, Load, Problems

COSTED = RIGHT.replace(
    'prices: {input: "0.50", output: "2.00"}',
    'costs: {input: "0.10", cache_read: "0.01", output: "0.40"}, prices: PRICES',
)


def model(prices: str) -> str:
    return COSTED.replace("PRICES", prices)


def test_every_shape_becomes_a_rate(load: Load) -> None:
    prices = (
        "{input: {shape: graduated, included: 100, tiers: [{up_to: 1000, price: '2', flat: '0.5'},"
        " {price: '1'}]}, output: {price: '3', minimum_per_request: '0.01', period: day},"
        " per_request: {shape: package, package: 10, price: '0.2'},"
        " reasoning: {price: '5', minimum_per_period: '20'},"
        " per_image: {shape: volume, tiers: [{up_to: 5, price: '0.1'}, {price: '0.05'}]},"
        " per_second: {shape: flat, flat: '4'}}"
    )
    rates = {rate.unit: rate for rate in load(start=model(prices)).models["small"].price("s").rates}
    assert rates["input"].tiers == (Tier(1000, 2_000_000, 500_000_000), Tier(None, 1_000_000))
    assert rates["input"].included == 100
    output = rates["output"]
    assert (output.minimum_per_request_nano, output.period) == (10_000_000, "day")
    assert rates["reasoning"].minimum_per_period_nano == 20 * 10**9
    assert (rates["request"].package_units, rates["request"].tiers[0].rate_pico) == (10, 2 * 10**11)
    assert [tier.rate_pico for tier in rates["image"].tiers] == [10**11, 5 * 10**10]
    assert rates["second"].tiers == (Tier(None, 0, 4_000_000_000),)


def test_a_markup_multiplies_the_costs_and_an_own_price_stands(load: Load) -> None:
    price = load(start=model("{markup: '1.5', output: '9'}")).models["small"].price("small")
    assert price.table().rates_pico == {"input": 150_000, "cache_read": 15_000, "output": 9_000_000}


@pytest.mark.parametrize(
    ("prices", "path", "says"),
    [
        ("{markup: '0'}", "markup", "not a factor"),
        ("{markup: '1.0000001'}", "markup", "finer than a pico-credit"),
        ("{input: {shape: graduated}, output: '1'}", "input.tiers", "is missing"),
        ("{input: {price: x}, output: '1'}", "input.price", "not a plain decimal"),
        ("{input: {shape: flat, price: '1'}, output: '1'}", "input.price", "is set by `flat`"),
        ("{input: {shape: package, price: '1'}, output: '1'}", "input.package", "is missing"),
        (
            "{input: {shape: volume, tiers: [{price: '1'}, {price: '1'}]}, output: '1'}",
            "input.tiers",
            "tier 1 has no `up_to`",
        ),
        (
            "{input: {shape: volume, tiers: [{up_to: 5, price: '1'}]}, output: '1'}",
            "input.tiers",
            "the last tier has an end",
        ),
        (
            "{input: {shape: volume, tiers: [{up_to: 5, price: q}, {price: '1'}]}, output: '1'}",
            "input.tiers[0].price",
            "not a plain decimal",
        ),
        (
            "{input: {shape: flat, flat: '1', minimum_per_period: '2'}, output: '1'}",
            "input.minimum_per_period",
            "has no minimum",
        ),
        (
            "{input: {price: '1', minimum_per_request: '1', minimum_per_period: '2'}, output: '1'}",
            "input.minimum_per_period",
            "cannot be combined with `minimum_per_request`",
        ),
        ("{input: {shap: flat}, output: '1'}", "input.shap", "not a known field"),
    ],
)
def test_a_wrong_price_is_told_with_its_place(
    problems: Problems, prices: str, path: str, says: str
) -> None:
    (problem, *_) = problems(start=model(prices))
    assert problem.path == f"models.small.prices.{path}"
    assert says in problem.message


def test_a_markup_without_costs_is_refused(problems: Problems) -> None:
    start = RIGHT.replace('{input: "0.50", output: "2.00"}', "{markup: '2'}")
    assert [p.message for p in problems(start=start)] == ["has no costs to mark up"]


def test_prices_of_plans_and_customers_take_the_models_place(load: Load) -> None:
    settings = load(
        "plans: {team: {prices: {small: {input: '0.40', output: '1'}}}}\n"
        "customers: {a: {plan: team}, b: {plan: team, prices: {small: {input: '0', output: '0'}}},"
        " c: {}}\n"
    )
    draft = settings.price_draft()
    rates = {
        name: draft.prices[draft.book.version_for("small", name) or ""].table().rates_pico["input"]
        for name in "abc"
    }
    assert rates == {"a": 400_000, "b": 0, "c": 500_000}
    assert set(draft.book.customers) == {"a", "b"}


def test_an_override_of_an_unknown_model_is_told(problems: Problems) -> None:
    (problem,) = problems("customers: {a: {prices: {smal: {input: '1', output: '1'}}}}\n")
    assert (problem.path, problem.hint) == ("customers.a.prices.smal", "Did you mean 'small'?")


def test_allowances_come_from_the_plan_and_the_customer(load: Load) -> None:
    settings = load(
        "plans: {p: {billing_day: 5, recurring_grants: [{name: m, amount: '2', rollover_max: '1'}]}}\n"
        "customers: {a: {plan: p}, b: {plan: p, billing_day: 9,"
        " recurring_grants: [{name: m, amount: '3'}, {name: w, amount: '1', every: week}]}}\n"
    )
    (own,) = settings.recurring_grants("a")
    assert (own.amount_nano, own.rollover_max_nano, own.every) == (2 * 10**9, 10**9, "month")
    assert [(g.name, g.amount_nano) for g in settings.recurring_grants("b")] == [
        ("m", 3 * 10**9),
        ("w", 10**9),
    ]
    assert (settings.billing_day("a"), settings.billing_day("b")) == (5, 9)
