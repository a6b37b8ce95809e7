"""What this hour, the last day and the last month came to, from the index."""

import time
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request

from gateway.admin.context import context_of
from gateway.admin.index.index import Index, IndexNotReady
from gateway.admin.index.usage import UsageAsked
from gateway.operations.report import Sums

HOUR_MS: Final = 3_600_000
MONTH_HOURS: Final = 30 * 24


@dataclass(frozen=True, slots=True)
class PastSums:
    """Sums of the hour that runs, of the last 24 hours and of the last 30 days, this one included.

    at_ms: when they were read; 0 for not yet. problem: why the store cannot be read
    """

    hour: Sums = field(default_factory=Sums)
    day: Sums = field(default_factory=Sums)
    month: Sums = field(default_factory=Sums)
    at_ms: int = 0
    problem: str = ""


async def past_sums(request: Request) -> PastSums:
    """The sums of this process' store."""
    index = context_of(request).index
    now_ms = time.time_ns() // 1_000_000
    try:
        hour, day, month = [await _since(index, now_ms, hours) for hours in (1, 24, MONTH_HOURS)]
    except IndexNotReady:
        return PastSums(problem=index.problem)
    return PastSums(hour, day, month, now_ms, index.problem)


async def _since(index: Index, now_ms: int, hours: int) -> Sums:
    first = now_ms // HOUR_MS + 1 - hours
    return (await index.usage(UsageAsked((), first * HOUR_MS))).total
