"""One reader for all quantities that a provider reports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.reading.numbers import MAX_REPORTED, BadUsage, read_quantity


@pytest.mark.parametrize(
    ("value", "quantity"),
    [
        (0, 0), (11, 11), (11.0, 11), (14417.92, 14418), (-0.0, 0), (1e3, 1000), (0.0001, 1),
        ("11", 11), ("11.0", 11), ("11.000", 11), (" 11.2 ", 12), ("0", 0), ("1e2", 100),
        ("14417.92", 14418), ("+3", 3), ("3.", 3), (None, None), ("", None), ("  ", None),
        (MAX_REPORTED, MAX_REPORTED), ("0.1", 1), ("999999.999999999999999999999999", 1_000_000),
    ],
)  # fmt: skip
def test_a_quantity_is_rounded_up_to_an_integer(value: object, quantity: int | None) -> None:
    assert read_quantity(value) == quantity


@pytest.mark.parametrize(
    "value",
    [
        -1, -0.5, "-1", "-0.5", True, False, [], {}, [3], "many", "1,000", "0x10", "1_000", "nan", "inf",
        float("nan"), float("inf"), -float("inf"), MAX_REPORTED + 1, 2**63, 1e300, "1e99", "٣",
    ],
)  # fmt: skip
def test_what_is_no_quantity_is_refused_with_its_name(value: object) -> None:
    with pytest.raises(BadUsage, match=r"^tokens "):
        read_quantity(value, "tokens")


@given(st.integers(0, 10**9))
def test_each_spelling_of_an_integer_is_that_integer(number: int) -> None:
    for value in (number, float(number), str(number), f"{number}.0", f" {number}.000 "):
        assert read_quantity(value) == number


@given(st.decimals(0, 10**8, allow_nan=False, places=5))
def test_a_fraction_costs_less_than_one_unit_more(number: object) -> None:
    from decimal import Decimal

    assert isinstance(number, Decimal)
    quantity = read_quantity(str(number))
    assert quantity is not None
    assert 0 <= quantity - number < 1
