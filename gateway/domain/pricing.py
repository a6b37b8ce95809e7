"""Prices compiled to rows for the scripts. Python never rates: only Lua turns usage into money.

A `PriceTable` is one model's price at one version, in row order. What the scripts take
(layout in `lua/README.md`): the rows once, and a vector of quantities in the same order.

What a rate makes of x, a period's units beyond the included ones (C is charged as
C(x after) − C(x before), so a period costs what its total costs, however it was split):

    per_unit   x × rate
    graduated  each unit at the rate of the tier it falls in; a tier's flat amount once it is entered
    volume     all x at the rate of the tier that x falls in, and that tier's flat amount
    package    packages begun × rate (the rate is a package's, of `package_units`)
    flat       the flat amount, once x is above 0

A step of a volume tier may make a charge negative; then nothing is charged and an `adjust` entry
credits it. Of two minimums a rate has one at most: a request with units beyond the included ones costs
`minimum_per_request_nano` at least; or a period with any, `minimum_per_period_nano`: then C(x) is
raised to it where x is above 0, so the first request that goes beyond pays it, and later ones only
what the period costs more.
"""

import hashlib
import struct
import zlib
from collections.abc import Container, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Final, Literal

from gateway.domain.limits import Window
from gateway.domain.money import MAX_AMOUNT_NANO, MAX_QUANTITY, MAX_RATE_PICO, PICO_PER_NANO
from gateway.domain.usage import (
    CHARGED_AS,
    DEFAULT_TIER,
    SERVICE_TIERS,
    TEXT_INPUT,
    TEXT_OUTPUT,
    UNIT_NAMES,
    UNIT_NUMBERS,
    Usage,
    in_tier,
    without_tier,
)

Shape = Literal["per_unit", "graduated", "volume", "package", "flat"]

SHAPE_PER_UNIT: Final = 0
SHAPE_NUMBERS: Final[Mapping[Shape, int]] = {
    "per_unit": SHAPE_PER_UNIT,
    "graduated": 1,
    "volume": 2,
    "package": 3,
    "flat": 4,
}
PERIOD_NUMBERS: Final[Mapping[Window, int]] = {
    "minute": 1,
    "hour": 2,
    "day": 3,
    "week": 4,
    "month": 5,
    "total": 6,
}
"""Number of each period in packed rows and in the account record."""
MAX_TIERS: Final = 32
MAX_ROWS_BYTES: Final = 65_535
"""A hold's record counts the bytes of its rows in two bytes."""

_ROW = struct.Struct("<BBdd")
_TIERED = struct.Struct("<BBBBIdddd")
_TIER = struct.Struct("<dddd")
_SHAPE_NAMES: Final = {number: name for name, number in SHAPE_NUMBERS.items()}
_PERIOD_NAMES: Final = {number: name for name, number in PERIOD_NUMBERS.items()}


@dataclass(frozen=True, slots=True)
class Tier:
    """One tier. Included units do not count.

    up_to:     its last unit in the period; None: no end
    rate_pico: pico-credits per unit (of a package: per package)
    flat_nano: charged once it is entered; of a volume: while the total lies in it
    """

    up_to: int | None
    rate_pico: int
    flat_nano: int = 0


@dataclass(frozen=True, slots=True)
class Rate:
    """What one unit is charged at.

    included:     units of each period that are free; the tiers count what is beyond them
    minimum_per_request_nano: what a request with units beyond them costs at least, of this unit
    minimum_per_period_nano:  what a period with such units costs at least
    package_units: size of a package
    period:       over which tiers and included units count; a month begins on the billing day
    Raises ValueError where a field is out of bounds or does not fit the shape.
    """

    unit: str
    shape: Shape
    tiers: tuple[Tier, ...]
    included: int = 0
    minimum_per_request_nano: int = 0
    package_units: int = 1
    period: Window = "month"
    minimum_per_period_nano: int = 0

    def __post_init__(self) -> None:
        _check(self)

    @property
    def plain(self) -> bool:
        """Whether the charge is quantity × rate and nothing else, so that no period counts."""
        counts = self.included or self.minimum_per_request_nano or self.minimum_per_period_nano
        return self.shape == "per_unit" and not counts

    @property
    def dearest_pico(self) -> int:
        """The most expensive rate of one unit, without flat amounts; a package's rate is shared
        by its units."""
        return max(-(-tier.rate_pico // self.package_units) for tier in self.tiers)


@dataclass(frozen=True, slots=True)
class PriceTable:
    """What one model's units are charged at, and what they cost the operator.

    rates_pico:  unit → pico-credits per unit, the charge; of tiers the most expensive
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
    rates: Mapping[str, Rate]
    """The rates as given, by unit."""
    service_tiers: tuple[str, ...]
    """The service tiers that have a price, the default one first."""
    _dearest: Mapping[tuple[str, bool, bool], tuple[str, str]]
    _position: Mapping[str, int]
    _vector: struct.Struct

    @property
    def counts_periods(self) -> bool:
        """Whether a charge depends on earlier usage in its period."""
        return len(self.rows) != _ROW.size * len(self.units)

    def vector(self, usage: Usage) -> bytes:
        """Pack quantities in row order. A class without a price is charged as its parent.

        Units that have no price at all (a request where only tokens are priced) are free
        and left out. Raises ValueError for a quantity outside 0 … MAX_QUANTITY.
        """
        quantities = [0] * len(self.units)
        positions = self._position
        for unit, quantity in usage.items():
            if not 0 <= quantity <= MAX_QUANTITY:
                raise ValueError(f"{quantity} {unit} is outside 0 … {MAX_QUANTITY}")
            if unit in positions:
                quantities[positions[unit]] += quantity
        return self._vector.pack(*quantities)

    def position(self, unit: str) -> int | None:
        """The place of a unit's quantity in a vector; None where the unit has no price."""
        return self._position.get(unit)

    def worst_units(self, tier: str) -> tuple[str, str]:
        """The most expensive classes of text input and of text output in a service tier."""
        return self._dearest[tier, False, False]

    def unpack_vector(self, packed: bytes) -> dict[str, int]:
        """Unpack a vector to quantities by unit, without zeros."""
        values = self._vector.unpack(packed)
        return {unit: int(q) for unit, q in zip(self.units, values, strict=True) if q}

    def worst_case(
        self,
        *,
        input_tokens: int,
        output_tokens: int,
        requests: int = 1,
        tool_calls: int = 0,
        audio: bool = False,
        images: bool = False,
        tiers: tuple[str, ...] = (DEFAULT_TIER,),
    ) -> Usage:
        """Turn an upper bound into usage: every token in the most expensive class it could fall into.

        audio, images:  whether the request carries or asks for them; otherwise those classes cannot
                        apply and do not raise the hold
        tiers:          the service tiers that may serve it. Of several, each part is in the most
                        expensive; if tiers or included units decide which one that is, the bound is
                        the sum of all
        """
        if len(tiers) == 1 and not tool_calls and tiers[0] == DEFAULT_TIER:
            first, second = self._dearest[DEFAULT_TIER, audio, images]
            return {"request": requests, first: input_tokens, second: output_tokens}
        parts = []
        for tier in tiers:
            dearest_input, dearest_output = self._dearest[tier, audio, images]
            part = [
                (in_tier("request", tier), requests),
                (dearest_input, input_tokens),
                (dearest_output, output_tokens),
            ]
            if tool_calls:
                part.append((in_tier("tool_call", tier), tool_calls))
            parts.append(part)
        if len(parts) == 1:
            return dict(parts[0])
        if self.counts_periods:
            return dict(item for part in parts for item in part)
        rates = self.rates_pico
        return dict(
            max(same, key=lambda item: effective_rate(item[0], rates))
            for same in zip(*parts, strict=True)
        )

    def no_dearer(self, tier: str, than: str) -> bool:
        """Say whether no unit of a service tier costs more than in another tier. False if a price
        counts over a period, because it then depends on earlier usage."""
        for unit in _UNITS:
            rate = rate_of(in_tier(unit, tier), self.rates)
            other = rate_of(in_tier(unit, than), self.rates)
            if not (rate.plain and other.plain and rate.dearest_pico <= other.dearest_pico):
                return False
        return True


_UNITS: Final = {without_tier(unit) for unit in UNIT_NUMBERS}


def per_unit(unit: str, rate_pico: int) -> Rate:
    """Build a plain rate: quantity × rate. Raises ValueError."""
    return Rate(unit, "per_unit", (Tier(None, rate_pico),))


def compile_prices(
    rates: Mapping[str, int] | Iterable[Rate],
    costs_pico: Mapping[str, int] | None = None,
    *,
    counter: str = "",
) -> PriceTable:
    """Compile charges (and costs, if known) to rows. The version is a digest of both.

    rates:   a mapping of unit → pico-credits is per_unit
    counter: names what periods count, as a rule the model: prices with the same counter, unit and
             period count together, and a new version goes on where the old one stood
    Raises ValueError for an unknown unit, one with two rates, or a rate out of bounds.
    """
    given = (
        [per_unit(unit, rate) for unit, rate in rates.items()]
        if isinstance(rates, Mapping)
        else list(rates)
    )
    by_unit = {rate.unit: rate for rate in given}
    if len(by_unit) != len(given):
        raise ValueError("a unit has one rate, which may have tiers")
    costs = dict(costs_pico or {})
    for unit, cost in costs.items():
        per_unit(unit, cost)  # its bounds are those of a rate
    # Each class with a charge or a cost gets a row; others are charged as their parent.
    units = tuple(sorted({*by_unit, *costs}, key=UNIT_NUMBERS.__getitem__))
    rates_pico = {unit: rate.dearest_pico for unit, rate in by_unit.items()}
    rows = b"".join(_pack_rate(unit, by_unit, counter) for unit in units)
    cost_rows = b"".join(_pack_plain(unit, effective_rate(unit, costs)) for unit in units)
    if not costs:
        cost_rows = b""
    if len(rows) > MAX_ROWS_BYTES:
        raise ValueError(f"the tiers take {len(rows)} bytes; {MAX_ROWS_BYTES} are possible")
    position = {unit: at for unit in UNIT_NUMBERS if (at := _position(unit, units)) is not None}
    service_tiers = tuple(
        tier
        for tier in SERVICE_TIERS
        if tier == DEFAULT_TIER or any(unit.startswith(f"{tier}.") for unit in by_unit)
    )
    return PriceTable(
        price_version="p_" + hashlib.sha256(rows + b"|" + cost_rows).hexdigest()[:12],
        units=units,
        rates_pico=rates_pico,
        costs_pico=costs,
        rows=rows,
        cost_rows=cost_rows,
        rates=by_unit,
        service_tiers=service_tiers,
        _dearest={
            (tier, audio, images): (
                _dearest(
                    TEXT_INPUT
                    | ({"audio_input"} if audio else set())
                    | ({"image_input"} if images else set()),
                    "input",
                    tier,
                    rates_pico,
                ),
                _dearest(
                    TEXT_OUTPUT | ({"audio_output"} if audio else set()), "output", tier, rates_pico
                ),
            )
            for tier in service_tiers
            for audio in (False, True)
            for images in (False, True)
        },
        _position=position,
        _vector=struct.Struct(f"<{len(units)}d"),
    )


def unpack_rates(rows: bytes) -> dict[str, Rate]:
    """Unpack rows (as a hold or the price book stores them) to rates by unit, in order. A
    per_unit rate with included units or a minimum is returned as a graduated one with one
    tier."""
    rates, at = {}, 0
    while at < len(rows):
        unit, shape = UNIT_NAMES[rows[at]], rows[at + 1]
        if shape == SHAPE_PER_UNIT:
            _, _, nano, pico = _ROW.unpack_from(rows, at)
            rates[unit] = per_unit(unit, int(nano) * PICO_PER_NANO + int(pico))
            at += _ROW.size
            continue
        head = _TIERED.unpack_from(rows, at)
        _, _, n_tiers, period, _, included, of_request, size, of_period = head
        at += _TIERED.size
        tiers = []
        for _ in range(n_tiers):
            up_to, nano, pico, flat = map(int, _TIER.unpack_from(rows, at))
            tiers.append(Tier(up_to or None, nano * PICO_PER_NANO + pico, flat))
            at += _TIER.size
        rates[unit] = Rate(
            unit,
            _SHAPE_NAMES[shape],
            tuple(tiers),
            int(included),
            int(of_request),
            int(size),
            _PERIOD_NAMES[period],
            int(of_period),
        )
    return rates


def unpack_rows(rows: bytes) -> dict[str, int]:
    """Unpack rows to rates in pico-credits by unit; of tiers, the most expensive."""
    return {unit: rate.dearest_pico for unit, rate in unpack_rates(rows).items()}


def unpack_units(rows: bytes) -> tuple[str, ...]:
    """Return the units of packed rows, in the order of their vectors."""
    return tuple(unpack_rates(rows))


def counter_ids(rows: bytes) -> dict[str, int]:
    """Return unit → id of the period counter, for the units of packed rows that have one."""
    ids, at = {}, 0
    while at < len(rows):
        if rows[at + 1] == SHAPE_PER_UNIT:
            at += _ROW.size
        else:
            _, _, n_tiers, _, counter_id, *_ = _TIERED.unpack_from(rows, at)
            ids[UNIT_NAMES[rows[at]]] = counter_id
            at += _TIERED.size + n_tiers * _TIER.size
    return ids


def effective_rate(unit: str, rates_pico: Mapping[str, int]) -> int:
    """Return the rate of a unit: its own, else its parent's, else 0."""
    priced = _priced_as(unit, rates_pico)
    return 0 if priced is None else rates_pico[priced]


def _priced_as(unit: str, priced: Container[str]) -> str | None:
    """Return the unit if it has a price, else the nearest parent with one."""
    step: str | None = unit
    while step is not None and step not in priced:
        step = CHARGED_AS.get(step)
    return step


def rate_of(unit: str, rates: Mapping[str, Rate]) -> Rate:
    """Return the rate of a unit: its own, else its parent's, else zero."""
    priced = _priced_as(unit, rates)
    return per_unit(unit, 0) if priced is None else rates[priced]


def _check(rate: Rate) -> None:
    if rate.unit not in UNIT_NUMBERS:
        raise ValueError(f"{rate.unit!r} is not a unit; known: {', '.join(UNIT_NUMBERS)}")
    name = f"the rate of {rate.unit}"
    if not 1 <= len(rate.tiers) <= MAX_TIERS:
        raise ValueError(f"{name} has {len(rate.tiers)} tiers; 1 … {MAX_TIERS} are possible")
    for tier in rate.tiers:
        if not 0 <= tier.rate_pico <= MAX_RATE_PICO:
            raise ValueError(f"{name} is outside 0 … {MAX_RATE_PICO} pico-credits")
        if not 0 <= tier.flat_nano <= MAX_AMOUNT_NANO:
            raise ValueError(f"{name} has a flat amount outside 0 … {MAX_AMOUNT_NANO}")
    bounds = [tier.up_to for tier in rate.tiers]
    ends = [up_to for up_to in bounds[:-1] if up_to is not None]
    if bounds[-1] is not None or len(ends) != len(bounds) - 1 or ends != sorted(set(ends)):
        raise ValueError(f"{name}: each tier ends beyond the one before, and the last has no end")
    if ends and not 0 < ends[0] <= ends[-1] <= MAX_AMOUNT_NANO:
        raise ValueError(f"{name} has a tier that ends outside 1 … {MAX_AMOUNT_NANO}")
    if not 0 <= rate.included <= MAX_AMOUNT_NANO:
        raise ValueError(f"{name} includes {rate.included} units")
    for minimum in (rate.minimum_per_request_nano, rate.minimum_per_period_nano):
        if not 0 <= minimum <= MAX_AMOUNT_NANO:
            raise ValueError(f"{name} has a minimum outside 0 … {MAX_AMOUNT_NANO}")
    if rate.minimum_per_request_nano and rate.minimum_per_period_nano:
        raise ValueError(f"{name} has a minimum per request and one per period")
    if not 1 <= rate.package_units <= MAX_QUANTITY:
        raise ValueError(f"{name} has packages of {rate.package_units} units")
    if rate.package_units > 1 and rate.shape != "package":
        raise ValueError(f"{name} has a package size; only shape `package` has one")
    if len(rate.tiers) > 1 and rate.shape not in ("graduated", "volume"):
        raise ValueError(f"{name} has tiers; only `graduated` and `volume` have more than one")
    only = rate.tiers[0]
    if rate.shape in ("per_unit", "package") and only.flat_nano:
        raise ValueError(f"{name} has a flat amount, which {rate.shape} cannot have")
    if rate.shape == "flat" and only.rate_pico:
        raise ValueError(f"{name} is flat: it has no rate per unit")
    if rate.period not in PERIOD_NUMBERS:
        raise ValueError(f"{name} has no period {rate.period!r}")


def _pack_plain(unit: str, rate_pico: int) -> bytes:
    return _ROW.pack(UNIT_NUMBERS[unit], SHAPE_PER_UNIT, *divmod(rate_pico, PICO_PER_NANO))


def _pack_rate(unit: str, rates: Mapping[str, Rate], counter: str) -> bytes:
    """Pack one row. A class without a rate is charged as its parent and counts with it."""
    step = _priced_as(unit, rates)
    rate = rates[step] if step is not None else per_unit(unit, 0)
    if rate.unit != unit:  # a request has it once, in the parent's row; a period once in any case
        rate = replace(rate, minimum_per_request_nano=0)
    if rate.plain:
        return _pack_plain(unit, rate.tiers[0].rate_pico)
    shape = "graduated" if rate.shape == "per_unit" else rate.shape
    counted = f"price/{counter}/{step}/{rate.period}"
    head = _TIERED.pack(
        UNIT_NUMBERS[unit],
        SHAPE_NUMBERS[shape],
        len(rate.tiers),
        PERIOD_NUMBERS[rate.period],
        zlib.crc32(counted.encode()),
        rate.included,
        rate.minimum_per_request_nano,
        rate.package_units,
        rate.minimum_per_period_nano,
    )
    return head + b"".join(
        _TIER.pack(tier.up_to or 0, *divmod(tier.rate_pico, PICO_PER_NANO), tier.flat_nano)
        for tier in rate.tiers
    )


def _position(unit: str, units: tuple[str, ...]) -> int | None:
    step = _priced_as(unit, units)
    return None if step is None else units.index(step)


def _dearest(classes: Set[str], base: str, tier: str, rates: Mapping[str, int]) -> str:
    """Return the most expensive class in a service tier; of equals the base, then by name."""
    dearest = max(
        sorted(classes), key=lambda u: (effective_rate(in_tier(u, tier), rates), u == base)
    )
    return in_tier(dearest, tier)
