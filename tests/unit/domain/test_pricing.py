"""Prices compiled to rows and vectors; nothing is rated here."""

import struct
from collections.abc import Mapping

import pytest

from gateway.domain.money import MAX_QUANTITY, MAX_RATE_PICO
from gateway.domain.pricing import (
    Rate,
    Tier,
    compile_prices,
    effective_rate,
    per_unit,
    unpack_rates,
    unpack_rows,
    unpack_units,
)
from gateway.domain.usage import UNIT_NUMBERS


def test_rows_stand_in_the_order_of_unit_numbers_with_two_limbs() -> None:
    table = compile_prices({"output": 15_000_001, "input": 3_000})
    assert table.units == ("input", "output")
    assert list(struct.iter_unpack("<BBdd", table.rows)) == [(1, 0, 3, 0), (5, 0, 15_000, 1)]
    assert table.cost_rows == b""
    assert unpack_rows(table.rows) == {"input": 3_000, "output": 15_000_001}
    assert unpack_units(table.rows) == table.units


def test_a_class_without_a_price_is_charged_as_its_parent() -> None:
    table = compile_prices({"input": 10, "cache_write": 12, "output": 20})
    usage = {"input": 1, "cache_read": 2, "cache_write_1h": 4, "reasoning": 8, "image_input": 16}
    assert table.unpack_vector(table.vector(usage)) == {"input": 19, "cache_write": 4, "output": 8}
    assert effective_rate("cache_write_1h", {"cache_write": 12}) == 12
    assert effective_rate("cache_write_1h", {"input": 10}) == 10
    assert effective_rate("request", {"input": 10}) == 0


def test_a_class_with_a_cost_of_its_own_has_a_row_at_its_parents_charge() -> None:
    table = compile_prices({"input": 10}, {"input": 6, "cache_read": 1})
    assert unpack_rows(table.rows) == {"input": 10, "cache_read": 10}
    assert unpack_rows(table.cost_rows) == {"input": 6, "cache_read": 1}


def test_units_without_a_price_are_free_and_left_out() -> None:
    table = compile_prices({"input": 10})
    assert table.unpack_vector(table.vector({"request": 1, "input": 3})) == {"input": 3}


@pytest.mark.parametrize("quantity", [-1, MAX_QUANTITY + 1])
def test_quantities_are_bounded(quantity: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        compile_prices({"input": 10}).vector({"input": quantity})


@pytest.mark.parametrize("rates", [{"tokens": 1}, {"input": -1}, {"input": MAX_RATE_PICO + 1}])
def test_unknown_units_and_rates_beyond_the_bound_are_refused(rates: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        compile_prices(rates)
    with pytest.raises(ValueError):
        compile_prices({"input": 1}, rates)


def test_the_version_is_a_digest_of_charge_and_cost() -> None:
    versions = {
        compile_prices({"input": 1}).price_version,
        compile_prices({"input": 2}).price_version,
        compile_prices({"output": 1}).price_version,
        compile_prices({"input": 1}, {"input": 0}).price_version,
        compile_prices({"input": 1}, {"input": 1}).price_version,
    }
    assert len(versions) == 5
    assert compile_prices({"input": 1}).price_version in versions


def test_the_worst_case_takes_the_dearest_class_that_can_apply() -> None:
    rates = {
        "input": 10, "cache_write": 12, "output": 20, "reasoning": 30,
        "audio_input": 50, "audio_output": 90, "image_input": 70,
    }  # fmt: skip
    table = compile_prices(rates)
    assert table.worst_case(input_tokens=3, output_tokens=4) == {
        "request": 1, "cache_write": 3, "reasoning": 4,
    }  # fmt: skip
    assert table.worst_case(input_tokens=3, output_tokens=4, audio=True, requests=2) == {
        "request": 2, "audio_input": 3, "audio_output": 4,
    }  # fmt: skip
    assert "image_input" in table.worst_case(input_tokens=3, output_tokens=4, images=True)
    cheap = compile_prices({"input": 10, "cache_read": 1, "output": 20})
    assert cheap.worst_case(input_tokens=3, output_tokens=4) == {"request": 1, "input": 3, "output": 4}  # fmt: skip


def test_a_minimum_per_period_is_the_counters_and_one_per_request_the_parents() -> None:
    tiers = (Tier(None, 10),)
    of_period = Rate("input", "per_unit", tiers, minimum_per_period_nano=5)
    table = compile_prices([of_period], {"cache_read": 1})
    rates = unpack_rates(table.rows)
    assert [rates[unit].minimum_per_period_nano for unit in ("input", "cache_read")] == [5, 5]
    of_request = Rate("input", "per_unit", tiers, minimum_per_request_nano=5, included=1)
    rates = unpack_rates(compile_prices([of_request], {"cache_read": 1}).rows)
    assert [rates[unit].minimum_per_request_nano for unit in ("input", "cache_read")] == [5, 0]


@pytest.mark.parametrize(("of_request", "of_period"), [(0, -1), (0, 9 * 10**15 + 1), (1, 1)])
def test_minimums_that_cannot_be_are_refused(of_request: int, of_period: int) -> None:
    with pytest.raises(ValueError, match="minimum"):
        Rate(
            "input",
            "per_unit",
            (Tier(None, 10),),
            minimum_per_request_nano=of_request,
            minimum_per_period_nano=of_period,
        )


def test_every_unit_can_be_priced() -> None:
    rates = dict.fromkeys(UNIT_NUMBERS, 7)
    table = compile_prices(rates, rates)
    usage = dict.fromkeys(UNIT_NUMBERS, 1)
    assert table.unpack_vector(table.vector(usage)) == usage


TIERED = compile_prices(
    {
        "input": 3,
        "cache_write": 4,
        "output": 9,
        "tool_call": 7,
        "flex.input": 1,
        "flex.output": 5,
        "flex.tool_call": 7,
        "priority.input": 5,
        "priority.output": 8,
        "priority.tool_call": 9,
    }
)


def test_a_service_tier_has_units_of_its_own_in_one_table() -> None:
    assert TIERED.service_tiers == ("default", "flex", "priority")
    assert unpack_rows(TIERED.rows) == TIERED.rates_pico
    assert unpack_units(TIERED.rows)[:2] == ("input", "cache_write")
    usage = {"flex.cache_read": 2, "flex.input": 1, "priority.reasoning": 3}
    packed = TIERED.vector(usage)
    assert TIERED.unpack_vector(packed) == {"flex.input": 3, "priority.output": 3}
    assert compile_prices({"input": 3}).service_tiers == ("default",)


def test_the_worst_case_is_in_the_tiers_that_may_serve_it() -> None:
    def worst(*tiers: str) -> Mapping[str, int]:
        return TIERED.worst_case(input_tokens=2, output_tokens=4, tool_calls=1, tiers=tiers)

    assert worst("default") == {"request": 1, "cache_write": 2, "output": 4, "tool_call": 1}
    assert worst("flex") == {
        "flex.request": 1, "flex.input": 2, "flex.output": 4, "flex.tool_call": 1
    }  # fmt: skip
    assert worst("default", "priority") == {
        "request": 1, "priority.input": 2, "output": 4, "priority.tool_call": 1
    }  # fmt: skip


def test_where_tiers_decide_what_is_dear_the_worst_case_is_the_sum() -> None:
    shaped = compile_prices(
        [per_unit("input", 1), Rate("flex.input", "flat", (Tier(None, 0, flat_nano=5),))]
    )
    worst = shaped.worst_case(input_tokens=2, output_tokens=0, tiers=("default", "flex"))
    assert (worst["input"], worst["flex.input"]) == (2, 2)
    assert not shaped.no_dearer("flex", "default")
    assert not shaped.no_dearer("default", "flex")


def test_a_tier_is_no_dearer_only_if_no_unit_is() -> None:
    assert TIERED.no_dearer("flex", "default")
    assert TIERED.no_dearer("default", "default")
    assert not TIERED.no_dearer("default", "flex")
    assert not TIERED.no_dearer("priority", "default")  # input is dearer, output is not
    assert not TIERED.no_dearer("default", "priority")


def test_rows_that_a_hold_cannot_keep_are_refused() -> None:
    tiers = (*(Tier(n, 1) for n in range(1, 32)), Tier(None, 1))
    with pytest.raises(ValueError, match="65535 are possible"):
        compile_prices([Rate(unit, "graduated", tiers) for unit in UNIT_NUMBERS])
