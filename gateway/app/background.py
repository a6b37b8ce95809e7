"""Work that a worker does besides requests: loops that are restarted when they fail."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from gateway.app.tasks import end_tasks
from gateway.flow.reservation.delivery import Delivery
from gateway.ledger.changes import Changes
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.servers import HotRunner
from gateway.ledger.journal import SettleJournal
from gateway.ledger.journal_file import JournalInUse
from gateway.ledger.journal_replay import orphans, replay_orphan
from gateway.telemetry.logs import failure

log = structlog.get_logger("gate")

Work = Callable[[], Awaitable[None]]

REPLAY_EVERY_S: Final = 1.0
"""How often the journals' records are offered to the ledger."""

ORPHANS_SHARE: Final = 20
"""The journals of dead workers are read for at most one part in this many of the time."""

RESTART_AFTER_S: Final = 1.0
"""Pause before background work that has failed is restarted."""


class Background:
    """Runs its work from `start` to `stop`."""

    def __init__(self, work: Sequence[Work]) -> None:
        self._work = tuple(work)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start every loop."""
        assert not self._tasks, "background work is started once"
        self._tasks = [asyncio.create_task(forever(each)) for each in self._work]

    async def stop(self) -> None:
        """Cancel every loop and wait for its end. Idempotent."""
        await end_tasks(self._tasks)


async def forever(work: Work) -> None:
    """Run work without end: a fault is logged, and the work is restarted after a pause."""
    while True:
        try:
            await work()
        except Exception as error:
            log.error("background_failed", **failure(error))
        await asyncio.sleep(RESTART_AFTER_S)


@dataclass(frozen=True, slots=True)
class JournalReplay:
    """Delivers journaled settlements: this worker's, and those of workers that have died.

    folder: where all workers of the gate keep their journals
    """

    journal: SettleJournal
    folder: Path
    delivery: Delivery
    connection: HotRunner

    async def run(self) -> None:
        """Replay again and again while the ledger is connected."""
        orphans_at = 0.0
        while True:
            await asyncio.sleep(REPLAY_EVERY_S)
            if not self.connection.connected:
                continue
            await self.replay_own()
            began = time.monotonic()
            if began < orphans_at:
                continue
            for path in await asyncio.to_thread(orphans, self.folder):
                # Every worker looks for orphans: another one may have taken it or finished it.
                with suppress(JournalInUse, FileNotFoundError):
                    await self._replay_orphan(path)
            # A large one with records of a node that is away is read each time without effect.
            orphans_at = began + ORPHANS_SHARE * (time.monotonic() - began)

    async def replay_own(self) -> None:
        """Deliver what this worker's journal holds, if the ledger is connected."""
        if self.connection.connected and self.journal.waiting_records:
            await self.delivery.replay_journal()

    async def _replay_orphan(self, path: Path) -> None:
        done = await replay_orphan(path, self.delivery.replay_one)
        if done.delivered or done.rejected or done.damaged_bytes:
            log.warning(
                "journal_replayed",
                delivered=done.delivered,
                rejected=done.rejected,
                damaged_bytes=done.damaged_bytes,
            )


@dataclass(frozen=True, slots=True)
class FollowChanges:
    """Applies changes of accounts as soon as they are announced.

    heard: takes the account's id; None when messages may have been missed
    """

    changes: Changes
    heard: Callable[[str | None], None]

    async def run(self) -> None:
        """Follow the announcements without end."""
        while True:
            with suppress(LedgerUnavailable):
                await self.changes.follow(self.heard, lambda: self.heard(None))
            await asyncio.sleep(RESTART_AFTER_S)
