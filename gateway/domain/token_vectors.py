"""The two vectors of quantities that nearly every request needs, packed without a dictionary."""

import struct
from typing import Final, NamedTuple

from gateway.domain.money import MAX_QUANTITY
from gateway.domain.pricing import PriceTable
from gateway.domain.usage import DEFAULT_TIER, OUTPUT_UNITS, TOKEN_UNITS, Usage, tier_of

_DOUBLE: Final = struct.Struct("<d").pack
_SIDES: Final = frozenset({"input", "output"})

Around = tuple[bytes, bytes, bytes, bool]
"""What stands before, between and behind two quantities of a vector, and whether they are swapped."""


class PackedTokens(NamedTuple):
    """A vector, with what limits and the expected output count in it."""

    vector: bytes
    tokens: int
    output: int


class TokenVectors:
    """Packs input and output tokens of one request in the order of a price's rows.

    For requests of text alone in the default service tier. The result equals
    `prices.vector({"request": 1, …})` for the same quantities; a unit without a price is left out.
    """

    __slots__ = ("_input", "_pack", "_places", "_sides", "_size", "_worst", "_zeros")

    def __init__(self, prices: PriceTable) -> None:
        units = len(prices.units)
        # One place more than there are rows takes what has no price; its bytes are cut off.
        self._size = 8 * units
        self._zeros = [0.0] * (units + 1)
        self._pack = struct.Struct(f"<{units + 1}d").pack
        request = prices.position("request")
        if request is not None:
            self._zeros[request] = 1.0
        first, second = prices.worst_units(DEFAULT_TIER)
        self._worst = self._around(self._place(prices, first), self._place(prices, second))
        self._sides = self._around(self._place(prices, "input"), self._place(prices, "output"))
        zeros, at = self._pack(*self._zeros), 8 * self._place(prices, "input")
        self._input = zeros[:at], zeros[at + 8 :]

        self._places = {
            unit: (self._place(prices, unit), unit in OUTPUT_UNITS)
            for unit in TOKEN_UNITS
            if tier_of(unit) == DEFAULT_TIER
        }

    def reported(self, usage: Usage, most_tokens: int) -> PackedTokens | None:
        """Usage that a provider reported for one request.

        None where it is more than a vector of tokens in the default tier, or beyond `most_tokens`:
        then it has to be judged.
        """
        if usage.keys() == _SIDES:
            # What nearly all report takes no loop.
            first, second = usage["input"], usage["output"]
            tokens, output = first + second, second
            if first < 0 or second < 0 or tokens > most_tokens or tokens > MAX_QUANTITY:
                return None
            before, between, behind, swapped = self._sides
            if swapped:
                first, second = second, first
            vector = before + _DOUBLE(first) + between + _DOUBLE(second) + behind
            return PackedTokens(vector[: self._size], tokens, output)
        quantities = self._zeros.copy()
        places = self._places
        tokens = output = 0
        for unit, quantity in usage.items():
            if not quantity:
                continue
            place = places.get(unit)
            if place is None or quantity < 0:
                return None
            at, is_output = place
            quantities[at] += quantity
            tokens += quantity
            if is_output:
                output += quantity
        if tokens > most_tokens or tokens > MAX_QUANTITY:
            return None
        return PackedTokens(self._pack(*quantities)[: self._size], tokens, output)

    @staticmethod
    def _place(prices: PriceTable, unit: str) -> int:
        position = prices.position(unit)
        return len(prices.units) if position is None else position

    def reserved(self, input_tokens: int, output_tokens: int, counted: int) -> tuple[bytes, bytes]:
        """Two vectors: every token in the most expensive class that it could fall in, and the
        `counted` tokens of the input alone. Raises ValueError."""
        if not 0 <= counted <= input_tokens <= MAX_QUANTITY >= output_tokens >= 0:
            raise ValueError(
                f"{input_tokens} input ({counted} counted) or {output_tokens} output tokens are"
                f" outside 0 … {MAX_QUANTITY}"
            )
        before, between, behind, swapped = self._worst
        first, second = input_tokens, output_tokens
        if swapped:
            first, second = second, first
        size = self._size
        worst = before + _DOUBLE(first) + between + _DOUBLE(second) + behind
        before, behind = self._input
        return worst[:size], (before + _DOUBLE(counted) + behind)[:size]

    def _around(self, first: int, second: int) -> Around:
        """The constant bytes around the two places."""
        zeros = self._pack(*self._zeros)
        if first == second:  # both without a price: what is written there is cut off
            return zeros[: 8 * first], b"", b"", False
        low, high = min(first, second), max(first, second)
        before, between = zeros[: 8 * low], zeros[8 * low + 8 : 8 * high]
        return before, between, zeros[8 * high + 8 :], first > second
