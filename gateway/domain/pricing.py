"""Prices compiled to rows for the scripts. Python never rates: Lua alone turns usage into money.

A `PriceTable` is one model's price at one version, in row order. What the scripts take
(layout in `lua/README.md`): the rows once, and a vector of quantities in the same order.
"""

import hashlib
import struct
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Final

from gateway.domain.money import MAX_QUANTITY, MAX_RATE_PICO, PICO_PER_NANO
from gateway.domain.usage import (
    CHARGED_AS,
    TEXT_INPUT,
    TEXT_OUTPUT,
    UNIT_NAMES,
    UNIT_NUMBERS,
    Usage,
)

SHAPE_PER_UNIT: Final = 0

_ROW = struct.Struct("<BBdd")


@dataclass(frozen=True, slots=True)
class PriceTable:
    """What one model's units are charged at, and what they cost the operator.

    rates_pico:  unit → pico-credits per unit, the charge
    costs_pico:  unit → pico-credits per unit, what the provider bills; empty when unknown
    """

    price_version: str
    units: tuple[str, ...]
    rates_pico: Mapping[str, int]
    costs_pico: Mapping[str, int]
    rows: bytes
    """Packed charge rates, one row for each of `units`."""
    cost_rows: bytes
    """Packed costs in the same order, or empty when the cost is unknown."""
    _dearest: Mapping[tuple[bool, bool], tuple[str, str]]
    _position: Mapping[str, int]
    _vector: struct.Struct

    def vector(self, usage: Usage) -> bytes:
        """Pack quantities in row order. A class without a price is charged as its parent.

        Units that have no price at all (a request where only tokens are priced) are free
        and left out. Raises ValueError for a quantity outside 0 … MAX_QUANTITY.
        """
        quantities = [0] * len(self.units)
        for unit, quantity in usage.items():
            if not 0 <= quantity <= MAX_QUANTITY:
                raise ValueError(f"{quantity} {unit} is outside 0 … {MAX_QUANTITY}")
            position = self._position.get(unit)
            if position is not None:
                quantities[position] += quantity
        return self._vector.pack(*quantities)

    def unpack_vector(self, packed: bytes) -> dict[str, int]:
        """The quantities of a packed vector by unit, zeros left out."""
        values = self._vector.unpack(packed)
        return {unit: int(q) for unit, q in zip(self.units, values, strict=True) if q}

    def worst_case(
        self,
        *,
        input_tokens: int,
        output_tokens: int,
        requests: int = 1,
        audio: bool = False,
        images: bool = False,
    ) -> Usage:
        """An upper bound's usage: every token in the dearest class that it could fall in.

        audio, images: whether the request carries or asks for them; else their classes cannot
        apply and do not make the hold dearer.
        """
        dearest_input, dearest_output = self._dearest[audio, images]
        return {
            "request": requests,
            dearest_input: input_tokens,
            dearest_output: output_tokens,
        }


def compile_prices(
    rates_pico: Mapping[str, int], costs_pico: Mapping[str, int] | None = None
) -> PriceTable:
    """Compile charges (and costs, if known) to rows. The version is a digest of both.

    Raises ValueError for an unknown unit or a rate outside 0 … MAX_RATE_PICO.
    """
    costs = dict(costs_pico or {})
    for unit, rate in [*rates_pico.items(), *costs.items()]:
        if unit not in UNIT_NUMBERS:
            raise ValueError(f"{unit!r} is not a unit; known: {', '.join(UNIT_NUMBERS)}")
        if not 0 <= rate <= MAX_RATE_PICO:
            raise ValueError(f"the rate of {unit} is outside 0 … {MAX_RATE_PICO} pico-credits")
    # Each class that has a charge or a cost of its own gets a row; others fall to their parent.
    units = tuple(sorted({*rates_pico, *costs}, key=UNIT_NUMBERS.__getitem__))
    rows = _pack(units, rates_pico)
    cost_rows = _pack(units, costs) if costs else b""
    position = {unit: at for unit in UNIT_NUMBERS if (at := _position(unit, units)) is not None}
    return PriceTable(
        price_version="p_" + hashlib.sha256(rows + b"|" + cost_rows).hexdigest()[:12],
        units=units,
        rates_pico=dict(rates_pico),
        costs_pico=costs,
        rows=rows,
        cost_rows=cost_rows,
        _dearest={
            (audio, images): (
                _dearest(
                    TEXT_INPUT
                    | ({"audio_input"} if audio else set())
                    | ({"image_input"} if images else set()),
                    "input",
                    rates_pico,
                ),
                _dearest(
                    TEXT_OUTPUT | ({"audio_output"} if audio else set()), "output", rates_pico
                ),
            )
            for audio in (False, True)
            for images in (False, True)
        },
        _position=position,
        _vector=struct.Struct(f"<{len(units)}d"),
    )


def unpack_rows(rows: bytes) -> dict[str, int]:
    """Rates in pico-credits by unit, of packed per-unit rows (as a hold or an event stores them)."""
    rates = {}
    for number, shape, nano, pico in _ROW.iter_unpack(rows):
        assert shape == SHAPE_PER_UNIT, "tiered rows have their own layout"
        rates[UNIT_NAMES[number]] = int(nano) * PICO_PER_NANO + int(pico)
    return rates


def unpack_units(rows: bytes) -> tuple[str, ...]:
    """Units of packed per-unit rows, in the order of their vectors."""
    return tuple(UNIT_NAMES[number] for number, *_ in _ROW.iter_unpack(rows))


def effective_rate(unit: str, rates_pico: Mapping[str, int]) -> int:
    """The rate a unit is charged at: its own, else its parent's, else none (0)."""
    step: str | None = unit
    while step is not None:
        if step in rates_pico:
            return rates_pico[step]
        step = CHARGED_AS.get(step)
    return 0


def _pack(units: tuple[str, ...], rates: Mapping[str, int]) -> bytes:
    return b"".join(
        _ROW.pack(
            UNIT_NUMBERS[unit], SHAPE_PER_UNIT, *divmod(effective_rate(unit, rates), PICO_PER_NANO)
        )
        for unit in units
    )


def _position(unit: str, units: tuple[str, ...]) -> int | None:
    step: str | None = unit
    while step is not None:
        if step in units:
            return units.index(step)
        step = CHARGED_AS.get(step)
    return None


def _dearest(classes: Set[str], base: str, rates: Mapping[str, int]) -> str:
    return max(sorted(classes), key=lambda u: (effective_rate(u, rates), u == base))
