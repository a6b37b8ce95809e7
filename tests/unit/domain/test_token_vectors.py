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
@given(input_tokens=TOKENS, output_tokens=TOKENS, share=st.floats(0, 1))
def test_both_vectors_of_a_reserve_equal_the_general_ones(
    rates: dict[str, int], input_tokens: int, output_tokens: int, share: float
) -> None:
    prices = compile_prices(rates)
    own = int(input_tokens * share)
    worst, counted = TokenVectors(prices).reserved(input_tokens, output_tokens, own)
    usage = prices.worst_case(input_tokens=input_tokens, output_tokens=output_tokens)
    assert worst == prices.vector(usage)
    assert counted == prices.vector({"request": 1, "input": own, "output": 0})


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


@pytest.mark.parametrize(
    "tokens",
    [(-1, 0, 0), (0, -1, 0), (MAX_QUANTITY + 1, 0, 0), (0, MAX_QUANTITY + 1, 0), (1, 0, 2)],
)
def test_quantities_out_of_bounds_are_refused(tokens: tuple[int, int, int]) -> None:
    vectors = TokenVectors(compile_prices({"input": 1, "output": 2}))
    with pytest.raises(ValueError, match="outside"):
        vectors.reserved(*tokens)
