"""Sections for prices: what a unit costs the customer, in which shape, and what it costs the
operator.

Invariants: a price is complete. The override of a plan or a customer replaces the model's entire
price and inherits nothing, so nothing becomes cheap by omission. A markup is exact in
pico-credits or refused.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, Discriminator, Tag, WithJsonSchema, model_validator

from gateway.domain.limits import Window
from gateway.domain.money import (
    MAX_AMOUNT_NANO,
    MAX_QUANTITY,
    MAX_RATE_PICO,
    MoneyError,
    parse_rate,
)
from gateway.domain.pricebook import Price
from gateway.domain.pricing import MAX_TIERS, Rate, Shape, Tier, per_unit
from gateway.domain.usage import TOKEN_UNITS, in_tier
from gateway.settings.problems import Wrong
from gateway.settings.scalars import (
    DECIMAL_SCHEMA,
    TOKENS_PER_PRICE,
    Amount,
    Section,
    Text,
    TokenRate,
    UnitRate,
    Whole,
    field,
)

PER_UNIT_FIELDS: Final = {
    "per_request": "request",
    "per_tool_call": "tool_call",
    "per_second": "second",
    "per_byte": "byte",
    "per_image": "image",
    "per_item": "item",
}
"""Fields priced per unit rather than per million, with their unit."""
TierName = Literal["flex", "priority", "scale", "performance"]
"""Service tiers that can have a price in addition to the default one."""
IN_TIER: Final = "Credits per million tokens, or per unit in a field named `per_`…."


class TierSection(Section):
    """One tier of a graduated or volume price. Included units do not count."""

    up_to: Annotated[int, Whole(1, MAX_AMOUNT_NANO)] | None = field(
        "Last unit of the tier in the period; omitted in the last tier.", 1_000_000, None
    )
    flat_nano: Amount = field(
        "Credits once when the tier is entered (graduated), or while the total is in it (volume).",
        "0",
        0,
        alias="flat",
    )


class TokenTierSection(TierSection):
    __doc__ = TierSection.__doc__

    price: TokenRate = field(IN_TIER, "3.00")


class UnitTierSection(TierSection):
    __doc__ = TierSection.__doc__

    price: UnitRate = field(IN_TIER, "0.01")


class ShapeSection(Section):
    """A price that is more than one number per unit. Worked examples: docs/reference/prices.md."""

    PER: ClassVar[int] = 1

    shape: Shape = field("How the period's quantity becomes an amount.", "graduated", "per_unit")
    period: Window = field(
        "Period over which tiers and included units are counted, per customer and model (UTC). A "
        "month starts on the customer's billing day.",
        "month",
        "month",
    )
    included: Annotated[int, Whole(0, MAX_AMOUNT_NANO)] = field(
        "Free units per period; tiers count the units beyond them.", 1_000_000, 0
    )
    minimum_per_request_nano: Amount = field(
        "Minimum charge in credits for this class, for a request with units beyond the included "
        "ones.",
        "0.001",
        0,
        alias="minimum_per_request",
    )
    minimum_per_period_nano: Amount = field(
        "Minimum charge in credits for this class, for a period with units beyond the included "
        "ones. The first request of the period that exceeds them pays it.",
        "5.00",
        0,
        alias="minimum_per_period",
    )
    price: Annotated[Text, WithJsonSchema(DECIMAL_SCHEMA)] | None = field(
        "For `per_unit`: credits per million tokens, or per unit in a field named `per_`…. For "
        "`package`: credits per started package.",
        "3.00",
        None,
    )
    package: Annotated[int, Whole(1, MAX_QUANTITY)] | None = field(
        "For `package`: units per package.", 1000, None
    )
    flat_nano: Amount | None = field(
        "For `flat`: credits per period, whatever the quantity.", "5.00", None, alias="flat"
    )

    @model_validator(mode="after")
    def _sound(self) -> "ShapeSection":
        wanted = WANTED[self.shape]
        for name, value in (
            ("price", self.price),
            ("package", self.package),
            ("flat", self.flat_nano),
            ("tiers", self.steps() or None),
        ):
            if (value is not None) != (name in wanted):
                if value is None:
                    raise Wrong("is missing", f"A `{self.shape}` price needs it.", at=name)
                said = " and ".join(f"`{each}`" for each in wanted)
                raise Wrong(f"a `{self.shape}` price is set by {said}", "Remove it.", at=name)
        self._check_minimum()
        self._check_tiers()
        self._price_pico()
        return self

    def steps(self) -> Sequence[TokenTierSection | UnitTierSection]:
        """Its tiers."""
        return ()

    def rate(self, unit: str) -> Rate:
        """Convert to a rate of this unit. Raises ValueError if the fields do not fit together."""
        match self.shape:
            case "per_unit" | "package":
                tiers: tuple[Tier, ...] = (Tier(None, self._price_pico()),)
            case "flat":
                tiers = (Tier(None, 0, self.flat_nano or 0),)
            case "graduated" | "volume":
                tiers = tuple(Tier(x.up_to, x.price, x.flat_nano) for x in self.steps())
        return Rate(
            unit,
            self.shape,
            tiers,
            included=self.included,
            minimum_per_request_nano=self.minimum_per_request_nano,
            minimum_per_period_nano=self.minimum_per_period_nano,
            package_units=self.package or 1,
            period=self.period,
        )

    def _price_pico(self) -> int:
        if self.price is None:
            return 0
        try:
            return parse_rate(self.price, per=1 if self.package else self.PER)
        except MoneyError as error:
            raise Wrong(str(error), 'Write credits as a decimal, "0.25".', at="price") from error

    def _check_minimum(self) -> None:
        if not self.minimum_per_period_nano:
            return
        if self.shape == "flat":
            hint = "Remove it: `flat` is the price of the period."
            raise Wrong("a `flat` price has no minimum", hint, at="minimum_per_period")
        if self.minimum_per_request_nano:
            hint = "Remove one of them."
            raise Wrong(
                "cannot be combined with `minimum_per_request`", hint, at="minimum_per_period"
            )

    def _check_tiers(self) -> None:
        tiers, before = self.steps(), 0
        if len(tiers) > MAX_TIERS:
            raise Wrong(f"has more than {MAX_TIERS} tiers", at="tiers")
        for number, tier in enumerate(tiers, 1):
            if tier.up_to is None and number < len(tiers):
                hint = "Every tier except the last needs `up_to`."
                raise Wrong(f"tier {number} has no `up_to`", hint, at="tiers")
            if tier.up_to is not None and number == len(tiers):
                hint = "Remove its `up_to`, or add a tier: usage beyond it would have no price."
                raise Wrong("the last tier has an end", hint, at="tiers")
            if tier.up_to is not None and tier.up_to <= before:
                raise Wrong(
                    "the tiers are not in ascending order",
                    "Put them in the order of `up_to`.",
                    at="tiers",
                )
            before = tier.up_to or before


WANTED: Final[Mapping[str, tuple[str, ...]]] = {
    "per_unit": ("price",),
    "package": ("price", "package"),
    "flat": ("flat",),
    "graduated": ("tiers",),
    "volume": ("tiers",),
}
"""Fields that set a price, by shape."""


class TokenShapeSection(ShapeSection):
    __doc__ = ShapeSection.__doc__

    PER: ClassVar[int] = TOKENS_PER_PRICE

    tiers: tuple[TokenTierSection, ...] = field(
        "Tiers of `graduated` and `volume` prices.",
        [{"up_to": 1_000_000, "price": "3.00"}, {"price": "2.00"}],
        (),
    )

    def steps(self) -> Sequence[TokenTierSection | UnitTierSection]:
        """Its tiers."""
        return self.tiers


class UnitShapeSection(ShapeSection):
    __doc__ = ShapeSection.__doc__

    tiers: tuple[UnitTierSection, ...] = field(
        "Tiers of `graduated` and `volume` prices.",
        [{"up_to": 1000, "price": "0.01"}, {"price": "0.005"}],
        (),
    )

    def steps(self) -> Sequence[TokenTierSection | UnitTierSection]:
        """Its tiers."""
        return self.tiers


def _kind(value: Any) -> str:
    return SHAPE_TAG if isinstance(value, dict | ShapeSection) else DECIMAL_TAG


SHAPE_TAG: Final = "[shape]"
DECIMAL_TAG: Final = "[decimal]"
"""Steps that pydantic adds to an error's path; `explaining.py` omits what is in brackets."""

TokenPrice = Annotated[
    Annotated[TokenRate, Tag(DECIMAL_TAG)] | Annotated[TokenShapeSection, Tag(SHAPE_TAG)],
    Discriminator(_kind),
]
"""Read credits per million as a decimal, or a shape."""
UnitPrice = Annotated[
    Annotated[UnitRate, Tag(DECIMAL_TAG)] | Annotated[UnitShapeSection, Tag(SHAPE_TAG)],
    Discriminator(_kind),
]
"""Read credits per unit as a decimal, or a shape."""


def _markup(value: Any) -> Decimal:
    text = str(value)
    if not _MARKUP.fullmatch(text) or not 0 < Decimal(text) <= MAX_MARKUP:
        raise Wrong(
            f"{text!r} is not a factor above 0 and up to {MAX_MARKUP}",
            'Write the factor for the cost, such as "1.5".',
        )
    return Decimal(text)


_MARKUP: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{1,9})?")
MAX_MARKUP: Final = 1000

Markup = Annotated[Decimal, BeforeValidator(_markup), WithJsonSchema(DECIMAL_SCHEMA)]


class TierCostsSection(Section):
    """What the provider bills per million tokens of each class, and per unit that is not a token.

    The classes exclude each other. A class without a rate counts as its parent: cache_read,
    cache_write, audio_input and image_input as input, cache_write_1h as cache_write, reasoning
    and audio_output as output.
    """

    input: TokenRate | None = field("Credits per million input tokens.", "2.00", None)
    cache_read: TokenRate | None = field(
        "Credits per million input tokens read from the provider's cache.", "0.20", None
    )
    cache_write: TokenRate | None = field(
        "Credits per million input tokens written to the cache.", "2.50", None
    )
    cache_write_1h: TokenRate | None = field(
        "Credits per million input tokens written to the cache for an hour.", "4.00", None
    )
    output: TokenRate | None = field("Credits per million output tokens.", "10.00", None)
    reasoning: TokenRate | None = field(
        "Credits per million reasoning tokens, which the caller does not see.", "10.00", None
    )
    audio_input: TokenRate | None = field("Credits per million audio input tokens.", "30.00", None)
    audio_output: TokenRate | None = field(
        "Credits per million audio output tokens.", "60.00", None
    )
    image_input: TokenRate | None = field("Credits per million image input tokens.", "4.00", None)
    per_request: UnitRate | None = field("Credits per request.", "0.001", None)
    per_tool_call: UnitRate | None = field("Credits per call of a hosted tool.", "0.01", None)
    per_second: UnitRate | None = field("Credits per second.", "0.0001", None)
    per_byte: UnitRate | None = field("Credits per byte.", "0.000001", None)
    per_image: UnitRate | None = field("Credits per generated image.", "0.03", None)
    per_item: UnitRate | None = field("Credits per item that a route meters.", "0.001", None)

    def rates_pico(self) -> dict[str, int]:
        """Return the rates that are set, in pico-credits, by unit."""
        return {unit: rate for unit, rate in _set_fields(self) if isinstance(rate, int)}


class CostsSection(TierCostsSection):
    __doc__ = TierCostsSection.__doc__

    service_tiers: Mapping[TierName, TierCostsSection] = field(
        "What the provider bills in its other service tiers.",
        {"flex": {"input": "1.00", "output": "5.00"}},
        factory=dict,
    )


class TierPricesSection(Section):
    """What the customer is charged: for each class a decimal, or a shape.

    The classes exclude each other. A class without a price is charged as its parent: cache_read,
    cache_write, audio_input and image_input as input, cache_write_1h as cache_write, reasoning
    and audio_output as output.
    """

    markup: Markup | None = field(
        "Factor on the cost of every class that has a cost and no price; refused if the result is"
        " not exact in pico-credits.",
        "1.5",
        None,
    )
    input: TokenPrice | None = field("Credits per million input tokens.", "3.00", None)
    cache_read: TokenPrice | None = field(
        "Credits per million input tokens read from the provider's cache.", "0.30", None
    )
    cache_write: TokenPrice | None = field(
        "Credits per million input tokens written to the cache.", "3.75", None
    )
    cache_write_1h: TokenPrice | None = field(
        "Credits per million input tokens written to the cache for an hour.", "6.00", None
    )
    output: TokenPrice | None = field("Credits per million output tokens.", "15.00", None)
    reasoning: TokenPrice | None = field(
        "Credits per million reasoning tokens, which the caller does not see.", "15.00", None
    )
    audio_input: TokenPrice | None = field("Credits per million audio input tokens.", "40.00", None)
    audio_output: TokenPrice | None = field(
        "Credits per million audio output tokens.", "80.00", None
    )
    image_input: TokenPrice | None = field("Credits per million image input tokens.", "5.00", None)
    per_request: UnitPrice | None = field("Credits per request.", "0.001", None)
    per_tool_call: UnitPrice | None = field(
        "Credits per call of a hosted tool that the route prices.", "0.01", None
    )
    per_second: UnitPrice | None = field("Credits per second.", "0.0002", None)
    per_byte: UnitPrice | None = field("Credits per byte.", "0.000002", None)
    per_image: UnitPrice | None = field("Credits per generated image.", "0.04", None)
    per_item: UnitPrice | None = field("Credits per item that a route meters.", "0.002", None)

    @model_validator(mode="after")
    def _nothing_free_by_omission(self) -> "TierPricesSection":
        if self.markup is None:
            check_sides(dict(_set_fields(self)))
        return self

    def prices_unit(self, unit: str, costs: TierCostsSection | None) -> bool:
        """Say whether a unit has a price, or one by markup."""
        marked_up = self.markup is not None and costs is not None and unit in costs.rates_pico()
        return marked_up or unit in dict(_set_fields(self))

    def rates(self, costs_pico: Mapping[str, int]) -> list[Rate]:
        """Return the price as rates; units without a price are marked up from their cost. Raises
        Wrong."""
        given = dict(_set_fields(self))
        if self.markup is not None:
            if not costs_pico:
                raise Wrong("has no costs to mark up", "Set `costs` on the model.", at="markup")
            for unit, cost_pico in costs_pico.items():
                if unit not in given:
                    given[unit] = marked_up(unit, cost_pico, self.markup)
            check_sides(given)
        return [_rate(unit, value) for unit, value in given.items()]


class PricesSection(TierPricesSection):
    __doc__ = TierPricesSection.__doc__

    service_tiers: Mapping[TierName, TierPricesSection] = field(
        "Complete prices of the provider's other service tiers. A request for a tier without a "
        "price is refused with 400.",
        {"flex": {"input": "1.50", "output": "7.50"}},
        factory=dict,
    )

    def price(self, costs: CostsSection | None, *, counter: str) -> Price:
        """Return the prices of all service tiers as rates. Raises Wrong."""
        costs_pico = costs.rates_pico() if costs else {}
        rates = self.rates(costs_pico)
        for_one = [rate.unit for rate in rates if rate.unit not in TOKEN_UNITS]
        for tier, section in self.service_tiers.items():
            tier_costs = costs.service_tiers.get(tier) if costs else None
            with _within(tier):
                if costs is not None and tier_costs is None:
                    raise Wrong(
                        "has no costs, so its margin would be wrong",
                        f"Write `costs.service_tiers.{tier}` of the model too.",
                    )
                own_costs = tier_costs.rates_pico() if tier_costs else {}
                own = section.rates(own_costs)
                missing = set(for_one) - {rate.unit for rate in own}
                if missing:
                    raise Wrong(
                        f"has no price for a {min(missing)}, so it would be free",
                        f'Write `per_{min(missing)}: "0"` if that is meant.',
                    )
                rates += [replace(rate, unit=in_tier(rate.unit, tier)) for rate in own]
                costs_pico |= {in_tier(unit, tier): cost for unit, cost in own_costs.items()}
        return Price(tuple(rates), costs_pico, counter)


@contextmanager
def _within(tier: str) -> Iterator[None]:
    """Locate a mistake inside a service tier."""
    try:
        yield
    except Wrong as wrong:
        within = "service_tiers." + tier + (f".{wrong.at}" if wrong.at else "")
        raise Wrong(wrong.message, wrong.hint, at=within) from None


def marked_up(unit: str, cost_pico: int, markup: Decimal) -> int:
    """Multiply a cost by a factor, exactly in pico-credits. Raises Wrong."""
    exact = cost_pico * markup
    if exact != int(exact):
        raise Wrong(
            f"{markup} times the cost of {unit} is finer than a pico-credit for one",
            f"Give `{unit}` a price, or round the factor.",
            at="markup",
        )
    if exact > MAX_RATE_PICO:
        raise Wrong(f"makes {unit} more expensive than 1000 credits for one", at="markup")
    return int(exact)


def check_sides(given: Mapping[str, object]) -> None:
    """Refuse prices that leave one side of a token price free by omission. Raises Wrong."""
    if not given:
        raise Wrong("no price is given", 'Set `input` and `output`; use "0" for a free side.')
    tokens = set(given) - set(PER_UNIT_FIELDS.values())
    for side in ("input", "output"):
        if tokens and side not in tokens:
            raise Wrong(
                "has no price, so its tokens would be free",
                f'Write `{side}: "0"` if that is meant.',
                at=side,
            )


def _set_fields(section: Section) -> Iterator[tuple[str, "int | ShapeSection"]]:
    """Return what is set, by unit."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if value is not None and name not in ("markup", "service_tiers"):
            yield PER_UNIT_FIELDS.get(name, name), value


def _rate(unit: str, value: int | ShapeSection) -> Rate:
    if isinstance(value, int):
        return per_unit(unit, value)
    return value.rate(unit)
