"""Prices compiled to rows and vectors; nothing is rated here."""

import struct

import pytest

from gateway.domain.money import MAX_QUANTITY, MAX_RATE_PICO
from gateway.domain.pricing import (
    Rate,
    Tier,
    compile_prices,
    effective_rate,
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
