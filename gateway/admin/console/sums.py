"""What the last hour, day and month came to, kept current behind the pages' back.

The first sums of a large store take seconds, so a page never waits for them: it shows what is known.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

import structlog
from starlette.requests import Request

from gateway.admin.context import AdminContext, context_of
from gateway.app.stores import store_access
from gateway.domain.stores import StoreMissing
from gateway.operations.report import ReportRequest, Sums, hour_of, report
from gateway.telemetry.logs import failure

log = structlog.get_logger("console")

FRESH_S: Final = 15.0
HOUR_MS: Final = 3_600_000
MONTH_HOURS: Final = 30 * 24
_FIRST_WAIT_S: Final = 0.4


@dataclass(frozen=True, slots=True)
class PastSums:
    """Sums of the last hour, 24 hours and 30 days. at_ms: when they were read; 0 for not yet"""

    hour: Sums = field(default_factory=Sums)
    day: Sums = field(default_factory=Sums)
    month: Sums = field(default_factory=Sums)
    at_ms: int = 0
    problem: str = ""


class PastSumsKeeper:
    """Reads the sums when they are asked for and are not fresh."""

    def __init__(self) -> None:
        self._kept = PastSums()
        self._reading: asyncio.Task[None] | None = None
        self._took_s = 0.0

    async def read(self, context: AdminContext) -> PastSums:
        """What is known; the first time waits a moment for it."""
        age_s = time.time() - self._kept.at_ms / 1000
        idle = self._reading is None or self._reading.done()
        if idle and age_s > max(FRESH_S, 20 * self._took_s):
            self._reading = asyncio.create_task(self._refresh(context))
        if not self._kept.at_ms and self._reading is not None:
            await asyncio.wait({self._reading}, timeout=_FIRST_WAIT_S)
        return self._kept

    async def _refresh(self, context: AdminContext) -> None:
        began = time.monotonic()
        try:
            self._kept = await asyncio.to_thread(_sum, context)
        except StoreMissing as missing:
            self._kept = PastSums(problem=str(missing), at_ms=time.time_ns() // 1_000_000)
        except Exception as error:
            log.error("sums_failed", **failure(error))
        self._took_s = time.monotonic() - began


async def past_sums(request: Request) -> PastSums:
    """The sums of this application's store."""
    state = request.app.state
    keeper: PastSumsKeeper | None = getattr(state, "console_sums", None)
    if keeper is None:
        keeper = state.console_sums = PastSumsKeeper()
    return await keeper.read(context_of(request))


def _sum(context: AdminContext) -> PastSums:
    """Its own connection: pages ask the other one meanwhile. Raises StoreMissing."""
    now_ms = time.time_ns() // 1_000_000
    since_ms = now_ms - MONTH_HOURS * HOUR_MS
    with store_access(context.settings).open_or_empty() as store:
        made = report(store, ReportRequest(("hour",), since_ms))
        last_hour = report(store, ReportRequest((), now_ms - HOUR_MS)).total
    day_from = hour_of((now_ms - 24 * HOUR_MS) // HOUR_MS)
    day = Sums()
    for (hour,), sums in made.lines.items():
        if hour > day_from:
            day.add(sums)
    return PastSums(last_hour, day, made.total, now_ms)
