"""The one reader of quantities that a provider reports.

Providers write the same figure as `11`, `11.0`, `"11.0"` or `14417.92`. A quantity is not negative;
a fraction is rounded up.
"""

import math
import re
from decimal import Decimal
from typing import Any, Final

MAX_REPORTED: Final = 1_000_000_000
"""No single request uses more of one class; a larger figure is a fault of the provider."""

_DECIMAL: Final = re.compile(
    r"[+-]?[0-9]{1,32}(?:\.[0-9]{0,32})?(?:[eE][+-]?[0-9]{1,2})?", re.ASCII
)


class BadUsage(Exception):
    """A figure is present and impossible; the message says which and why."""


def read_quantity(value: Any, name: str = "", *, most: int = MAX_REPORTED) -> int | None:
    """A figure as an integer, rounded up; None when it is absent (missing, null or an empty string).

    name: of the figure, for the error. Raises BadUsage when it is not a number, is negative or
    exceeds `most`.
    """
    kind = type(value)
    if kind is int:
        quantity: int = value
    elif value is None:
        return None
    elif kind is float and math.isfinite(value):
        quantity = math.ceil(value) if value >= 0 else -1
    elif kind is str:
        text = value.strip()
        if not text:
            return None
        if _DECIMAL.fullmatch(text) is None:
            raise BadUsage(f"{name} is not a number".lstrip())
        exact = Decimal(text)
        quantity = math.ceil(exact) if exact >= 0 else -1
    else:
        raise BadUsage(f"{name} is not a number".lstrip())
    if 0 <= quantity <= most:
        return quantity
    raise BadUsage((f"{name} is negative" if quantity < 0 else f"{name} exceeds {most}").lstrip())
