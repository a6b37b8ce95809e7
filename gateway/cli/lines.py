"""How a line of a bill shows its price."""

from gateway.admin.why import PriceLine
from gateway.domain.money import format_rate
from gateway.domain.usage import TOKEN_UNITS

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
