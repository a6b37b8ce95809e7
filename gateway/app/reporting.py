"""The supervisor's report about its gate, every two seconds, for whoever shows all gates of a ledger.

Nothing depends on a report: while the ledger is away none is written.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from gateway.app.health_server import Readiness
from gateway.domain.gates import BEAT_EVERY_S
from gateway.telemetry.logs import failure
from gateway.telemetry.metrics import Snapshot

log = structlog.get_logger("supervisor")

ANSWER_WITHIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Reported:
    """What the supervisor says of itself. addresses: "host:port" by listener: gate, admin, console"""

    addresses: Mapping[str, str]
    workers: int
    workers_ready: int
    readiness: Readiness
    snapshot: Snapshot


class Reporter(Protocol):
    """Where a supervisor's reports go."""

    async def report(self, reported: Reported) -> None:
        """Keep one report. Raises what the ledger's client raises."""
        ...

    async def leave(self) -> None:
        """Remove the report and close. Never raises."""
        ...


async def keep_reporting(reporter: Reporter, look: Callable[[], Awaitable[Reported]]) -> None:
    """Report until cancelled, then leave."""
    try:
        while True:
            try:
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    await reporter.report(await look())
            except Exception as error:  # the ledger is away: the gate is shown as gone meanwhile
                log.debug("heartbeat_failed", **failure(error))
            await asyncio.sleep(BEAT_EVERY_S)
    finally:
        await reporter.leave()
