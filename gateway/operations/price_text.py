"""Prices and the lines of a bill, in words."""

from gateway.domain.money import format_amount, format_rate
from gateway.domain.pricing import Rate
from gateway.domain.usage import TOKEN_UNITS
from gateway.operations.why import PriceLine

BY_TIERS = "by tiers"


def price_columns(line: PriceLine) -> tuple[str, str]:
    """Price (tokens by the million) and amount; of a price with tiers no amount is known alone."""
    if line.rate_pico is None or line.amount_pico is None:
        return BY_TIERS, ""
    return unit_price(line.unit, line.rate_pico), format_rate(line.amount_pico, per=1)


def unit_price(unit: str, rate_pico: int) -> str:
    """`2.50 /M` for tokens, `0.001 each` for what is not one."""
    if unit in TOKEN_UNITS:
        return f"{format_rate(rate_pico, per=1_000_000)} /M"
    return f"{format_rate(rate_pico, per=1)} each"


def rate_text(rate: Rate) -> str:
    """A rate in a few words."""
    if rate.plain:
        return unit_price(rate.unit, rate.tiers[0].rate_pico)
    parts: list[str] = [rate.shape]
    for tier in rate.tiers:
        amounts = []
        if rate.shape == "package":
            amounts.append(f"{format_rate(tier.rate_pico, per=1)} for {rate.package_units}")
        elif rate.shape != "flat":
            amounts.append(unit_price(rate.unit, tier.rate_pico))
        if tier.flat_nano:
            amounts.append(format_amount(tier.flat_nano))
        end = f" to {tier.up_to}" if tier.up_to else ""
        parts.append(" + ".join(amounts) + end)
    if rate.included:
        parts.append(f"{rate.included} included")
    if rate.minimum_per_request_nano:
        parts.append(f"at least {format_amount(rate.minimum_per_request_nano)} a request")
    if rate.minimum_per_period_nano:
        parts.append(f"at least {format_amount(rate.minimum_per_period_nano)}")
    return f"{'; '.join(parts)} per {rate.period}"
