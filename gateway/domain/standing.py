"""State of a limit: what is used and held, and when that ends.

Amounts of spend are decimal strings of credits, everything else is an integer.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Any

from gateway.domain.limits import Limit
from gateway.domain.money import format_amount


@dataclass(frozen=True, slots=True)
class Standing:
    """One limit of one customer, project, key or model, at one moment.

    of:      whose it is: the id of the customer, project or key, or the model
    ends_ms: when the window ends; of a rolling one, when the oldest of what it counts counts no more;
             None where nothing ends
    """

    limit: Limit
    of: str
    used: int
    held: int
    ends_ms: int | None

    @property
    def left(self) -> int:
        """What can still be held."""
        return max(0, self.limit.ceiling - self.used - self.held)


def describe(limit: Limit, of: str) -> dict[str, Any]:
    """Describe a limit: its owner, measure and ceiling."""
    return {
        "scope": limit.scope,
        "name": of,
        "measure": limit.measure,
        "window": None if limit.measure == "concurrent" else limit.window,
        "rolling": limit.rolling,
        "ceiling": count_of(limit, limit.ceiling),
    }


def count_of(limit: Limit, count: int) -> str | int:
    """Format a count; spend is shown as credits."""
    return format_amount(count) if limit.measure == "spend" else count


def standing_document(standing: Standing) -> dict[str, Any]:
    """Describe a limit with its current state."""
    limit, ends_ms = standing.limit, standing.ends_ms
    ends = None
    if ends_ms is not None:
        moment = dt.datetime.fromtimestamp(ends_ms // 1000, dt.UTC)
        ends = f"{moment:%Y-%m-%dT%H:%M:%S}.{ends_ms % 1000:03d}Z"
    return {
        **describe(limit, standing.of),
        "used": count_of(limit, standing.used),
        "held": count_of(limit, standing.held),
        "left": count_of(limit, standing.left),
        "window_end": ends,
    }
