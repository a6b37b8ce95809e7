"""Refusals as a store keeps them: counted by the hour, because nothing was sold and one caller can cause
millions."""

from dataclasses import dataclass
from typing import Final

HOUR_MS: Final = 3_600_000
NO_ENTRY: Final = "0-0"
"""The cursor before the first entry of the stream of refusals."""
MOST_NANO: Final = 9_000_000_000_000_000_000
"""Sums of estimates stop here, below 2^63: at nine thousand million credits in one hour."""


@dataclass(frozen=True, slots=True)
class RefusalHour:
    """What was refused to one customer in one hour, for one model and reason.

    hour_ms:        when the hour began, Unix ms
    model:          as the caller named it; "" where none was read
    customer_id:    of what would have been refused in shadow mode, the shadow wallet's
    reason:         as `creditgate why` shows it: insufficient_credits, rate_limit, unknown_model, …; of
                    a limit in shadow mode with the limit behind it
    count:          refusals
    estimated_nano: the most that these requests could have cost, together; refusals before the
                    estimate add nothing
    """

    hour_ms: int
    customer_id: str
    model: str
    reason: str
    count: int
    estimated_nano: int
