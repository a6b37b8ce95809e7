"""Vectors that are packed without a dictionary equal those that are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.money import MAX_QUANTITY
from gateway.domain.pricing import compile_prices
from gateway.domain.token_vectors import TokenVectors

TABLES = [
    {},
    {"input": 1},
    {"output": 2},
    {"request": 3},
    {"input": 1, "output": 2},
    {"input": 5, "cache_write": 9, "output": 2, "reasoning": 7},
    {"request": 1, "output": 2, "cache_read": 3},
    {"input": 1, "output": 2, "request": 3, "tool_call": 4, "flex.input": 1, "flex.output": 1},
]
TOKENS = st.integers(0, MAX_QUANTITY)


@pytest.mark.parametrize("rates", TABLES)
@given(input_tokens=TOKENS, output_tokens=TOKENS)
def test_both_vectors_equal_the_general_ones(
    rates: dict[str, int], input_tokens: int, output_tokens: int
) -> None:
    prices = compile_prices(rates)
    vectors = TokenVectors(prices)
    worst = prices.worst_case(input_tokens=input_tokens, output_tokens=output_tokens)
    assert vectors.worst(input_tokens, output_tokens) == prices.vector(worst)
    counted = {"request": 1, "input": input_tokens, "output": output_tokens}
    assert vectors.counted(input_tokens, output_tokens) == prices.vector(counted)


@pytest.mark.parametrize("rates", TABLES)
@given(
    st.dictionaries(
        st.sampled_from(["input", "output", "cache_read", "cache_write", "reasoning"]),
        st.integers(0, 10_000),
    )
)
def test_reported_usage_is_packed_as_the_general_vector_and_counted(
    rates: dict[str, int], usage: dict[str, int]
) -> None:
    prices = compile_prices(rates)
    packed = TokenVectors(prices).reported(usage, most_tokens=MAX_QUANTITY)
    assert packed is not None
    assert packed.vector == prices.vector({"request": 1, **usage})
    assert packed.tokens == sum(usage.values())
    assert packed.output == usage.get("output", 0) + usage.get("reasoning", 0)


@pytest.mark.parametrize(
    "usage", [{"tool_call": 1}, {"flex.input": 1}, {"input": -1}, {"input": 60, "output": 50}]
)
def test_what_has_to_be_judged_is_not_packed(usage: dict[str, int]) -> None:
    vectors = TokenVectors(compile_prices({"input": 1, "output": 2}))
    assert vectors.reported(usage, most_tokens=100) is None


@pytest.mark.parametrize("tokens", [(-1, 0), (0, -1), (MAX_QUANTITY + 1, 0), (0, MAX_QUANTITY + 1)])
def test_quantities_out_of_bounds_are_refused(tokens: tuple[int, int]) -> None:
    vectors = TokenVectors(compile_prices({"input": 1, "output": 2}))
    for pack in (vectors.worst, vectors.counted):
        with pytest.raises(ValueError, match="outside"):
            pack(*tokens)
