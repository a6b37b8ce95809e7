"""Integer amounts, their scale, their bounds, and how they are read and shown.

Invariants: every amount is an `int` of nano-credits, every rate an `int` of pico-credits per unit.
Binary floats never hold money. Lua's numbers are doubles, so every amount stays within
`MAX_AMOUNT_NANO`, below 2^53 = 9,007,199,254,740,992, where integers are exact. Whoever
changes a bound here changes it in `lua/_records.lua` too (a test compares them).
"""

import re
from decimal import Decimal, InvalidOperation, localcontext
from functools import lru_cache
from typing import Final

SCALE: Final = 9
NANO_PER_CREDIT: Final = 10**SCALE
_DECIMALS: Final = f"%d.%0{SCALE}d"
PICO_PER_NANO: Final = 1000
PICO_PER_CREDIT: Final = NANO_PER_CREDIT * PICO_PER_NANO
MAX_AMOUNT_NANO: Final = 9_000_000_000_000_000
MAX_QUANTITY: Final = 1_000_000_000_000
"""The most of one unit that one event may carry (10^12: a terabyte, 31,000 years of seconds)."""
MAX_RATE_PICO: Final = 1_000_000_000_000_000
"""The highest rate: 1,000 credits per unit."""

_DECIMAL = re.compile(r"-?[0-9]{1,16}(\.[0-9]{1,15})?")


class MoneyError(ValueError):
    """The text is not an exact amount of money within bounds."""


def parse_amount(text: str, *, signed: bool = False) -> int:
    """Read a decimal number of credits, such as "12.50", exactly, as nano-credits.

    Raises MoneyError for anything but plain digits with at most nine decimals, for a
    negative amount unless `signed`, and beyond `MAX_AMOUNT_NANO`.
    """
    nano = _scaled(text, NANO_PER_CREDIT, "nine decimals (nano-credits)")
    if nano < 0 and not signed:
        raise MoneyError(f"{text!r} is negative")
    if abs(nano) > MAX_AMOUNT_NANO:
        raise MoneyError(f"{text!r} is beyond {MAX_AMOUNT_NANO // NANO_PER_CREDIT} credits")
    return nano


def parse_rate(text: str, *, per: int) -> int:
    """Read a price in credits per `per` units ("3.00" per 1,000,000) as pico-credits per unit.

    Raises MoneyError if it is not exact in pico-credits per unit, negative, or too large.
    """
    pico = _scaled(text, PICO_PER_CREDIT, "what a pico-credit per unit can hold", divide_by=per)
    if pico < 0:
        raise MoneyError(f"{text!r} is negative")
    if pico > MAX_RATE_PICO:
        raise MoneyError(f"{text!r} is beyond 1000 credits a unit")
    return pico


@lru_cache(4096)  # the same holds and balances are shown again and again
def format_amount(nano: int) -> str:
    """Show nano-credits as a plain decimal of credits, without trailing zeros: 1500000000 → "1.5"."""
    whole, rest = divmod(abs(nano), NANO_PER_CREDIT)
    text = (_DECIMALS % (whole, rest)).rstrip("0") if rest else str(whole)
    return f"-{text}" if nano < 0 else text


def format_rate(pico: int, *, per: int = 1_000_000) -> str:
    """Show pico-credits per unit as a plain decimal of credits per `per` units."""
    whole, rest = divmod(pico * per, PICO_PER_CREDIT)
    return f"{whole}.{rest:012d}".rstrip("0").rstrip(".")


def _scaled(text: str, factor: int, finest: str, *, divide_by: int = 1) -> int:
    if not isinstance(text, str) or not _DECIMAL.fullmatch(text):
        raise MoneyError(f'{text!r} is not a plain decimal number such as "0.25"')
    with localcontext() as context:
        context.prec = 60
        try:
            scaled = Decimal(text) * factor / divide_by
        except InvalidOperation as error:  # pragma: no cover - the pattern admits none
            raise MoneyError(f"{text!r} is not a number") from error
        if scaled != scaled.to_integral_value():
            raise MoneyError(f"{text!r} is finer than {finest}")
        return int(scaled)
