"""Prices as customers see them in the lists of models: credits per unit, as decimal strings."""

from typing import Any

from gateway.domain.money import format_amount, format_rate
from gateway.domain.pricing import PriceTable, Rate


def pricing_of(prices: PriceTable) -> dict[str, Any]:
    """Unit → its price: a string per single unit (per token, not per million); an object where tiers,
    included units or minimums decide. A class that is missing is charged as its parent."""
    return {
        unit: format_rate(rate.tiers[0].rate_pico, per=1) if rate.plain else _terms(rate)
        for unit, rate in prices.rates.items()
    }


def _terms(rate: Rate) -> dict[str, Any]:
    terms: dict[str, Any] = {"shape": rate.shape, "period": rate.period}
    if rate.included:
        terms["included"] = rate.included
    if rate.shape == "package":
        terms["package_units"] = rate.package_units
    for name in ("minimum_per_request", "minimum_per_period"):
        nano = getattr(rate, f"{name}_nano")
        if nano:
            terms[name] = format_amount(nano)
    terms["tiers"] = [
        {
            "up_to": tier.up_to,
            "rate": format_rate(tier.rate_pico, per=1),
            "flat": format_amount(tier.flat_nano),
        }
        for tier in rate.tiers
    ]
    return terms
