"""Repairs frozen shards without an operator: replay from the store, check, open.

The exporter that holds a shard's lease repairs it; so at any moment one process does. Its pump has halted
the shard before: nothing that it has read is still on its way to the store. An operator's `ledger reopen`
may run at the same time, and any of them may die: each step may be repeated, and `reopen` refuses a shard
that is no longer as it was read.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from gateway.app.backend import backend_over
from gateway.app.lasting_backend import FreshStore
from gateway.app.stores import store_access
from gateway.domain.actors import Actor
from gateway.domain.stores import StoreMissing
from gateway.exporter.main import Exporter
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.outbox_watermark import OutboxWatermark
from gateway.operations.backend import Backend
from gateway.operations.reapplying import Manner, Reopened, RepairGivenUp
from gateway.operations.reopen import reopen
from gateway.operations.repair_shards import desk_over, note_reopened
from gateway.operations.shut_wallets import note_shut_wallets
from gateway.settings import Settings
from gateway.telemetry.logs import failure

log = structlog.get_logger("repair")

LOOK_EVERY_S: Final = 0.5
EVIDENCE_WITHIN_S: Final = 2.0
"""A shard stays frozen for so long at least: each process looks once a second, and says what it has seen of
the shard. What none of them has said would be lost unnoticed."""
LIST_EVERY_S: Final = 10.0
"""Between looks at the wallets that repairs have frozen."""
RETRY_MOST_S: Final = 15.0
AT_ONCE: Final = 4
ACTOR: Final = Actor("gate", "repair")
REASON: Final = "the shard had lost entries; repaired by the gate"


@dataclass(slots=True)
class RepairTally:
    """repaired, failed: repairs since the start; seconds: what the last one took; wallets_shut: frozen by
    repairs and not thawed, in the shards that are held here."""

    repaired: int = 0
    failed: int = 0
    seconds: float = 0.0
    wallets_shut: int = 0


class _Attempts:
    """When a shard is due. since: when it was found frozen, by the monotonic clock"""

    def __init__(self, since: float) -> None:
        self.due_at = since + EVIDENCE_WITHIN_S
        self.failures = 0

    def failed(self) -> float:
        """Put it off; returns for how long, in seconds."""
        pause_s = min(RETRY_MOST_S, 2.0**self.failures)
        self.failures += 1
        self.due_at = time.monotonic() + pause_s
        return pause_s


class Repairer:
    """Repairs the frozen shards of one exporter, from `run` to `stop`."""

    def __init__(self, backend: Backend, exporter: Exporter, watermark: OutboxWatermark) -> None:
        """watermark: the one of the backend's verbs"""
        self.tally = RepairTally()
        self._backend = backend
        self._exporter = exporter
        self._watermark = watermark
        self._attempts: dict[int, _Attempts] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._stopping = asyncio.Event()
        self._listed_at = float("-inf")

    def stop(self) -> None:
        """End after the step that is under way; a successor resumes."""
        self._stopping.set()

    async def run(self) -> None:
        """Repair until stopped. Never raises for a ledger or a store that is away."""
        while not self._stopping.is_set():
            await self.repair_due()
            await self._list_wallets()
            await _until_set(self._stopping, LOOK_EVERY_S)

    async def repair_due(self) -> None:
        """Repair the shards that have been frozen for long enough."""
        frozen, now = self._exporter.frozen_shards, time.monotonic()
        self._attempts = {
            shard: self._attempts.get(shard) or _Attempts(now) for shard in sorted(frozen)
        }
        due = [shard for shard, attempts in self._attempts.items() if attempts.due_at <= now]
        if due:
            await asyncio.gather(*map(self._repair, due))

    async def _repair(self, shard: int) -> None:
        async with self._turns:
            began = time.monotonic()
            try:
                if not (await self._backend.outbox.head(shard)).frozen:
                    return  # somebody has reopened it, and the pump does not know yet
                log.warning("shard_repair_started", shard=shard)
                stored = await asyncio.to_thread(self._backend.store.cursors)
                self._watermark.note_stored(stored)
                manner = Manner("shut", may_go_on=lambda: self._may_repair(shard))
                done = await reopen(desk_over(self._backend), shard, manner)
            except RepairGivenUp as given_up:
                log.warning("shard_repair_failed", shard=shard, reason=str(given_up))
                return
            except (LedgerUnavailable, StoreMissing) as error:
                self._failed(shard, reason=str(error))
                return
            except Exception as error:  # a bug; exporting goes on, and the next attempt may succeed
                self._failed(shard, **failure(error))
                return
            if done is not None:
                await self._repaired(done, time.monotonic() - began)

    def _may_repair(self, shard: int) -> bool:
        return shard in self._exporter.frozen_shards and not self._stopping.is_set()

    def _failed(self, shard: int, **why: str) -> None:
        self.tally.failed += 1
        retry_in_s = self._attempts[shard].failed() if shard in self._attempts else None
        log.error("shard_repair_failed", shard=shard, retry_in_s=retry_in_s, **why)

    async def _repaired(self, done: Reopened, seconds: float) -> None:
        self.tally.repaired += 1
        self.tally.seconds = seconds
        more: dict[str, Any] = {}
        if done.lost is not None:
            more["lost_entries"] = str(done.lost)
        if done.not_applied:
            more["not_applied"] = [each.event_id for each in done.not_applied]
        log.warning(
            "shard_repaired",
            shard=done.number,
            epoch=done.epoch,
            applied=done.applied,
            kept=done.kept,
            seconds=round(seconds, 3),
            verified=done.checked,
            **more,
        )
        for customer_id, reason in done.shut.items():
            log.error("wallet_shut", shard=done.number, customer_id=customer_id, reason=reason)
        self._listed_at = float("-inf")
        try:
            await note_reopened(self._backend, done, REASON)
        except LedgerUnavailable as error:
            log.warning("repair_not_noted", shard=done.number, reason=str(error))

    async def _list_wallets(self) -> None:
        """Count the wallets that repairs have frozen, and write into the audit log what it lacks."""
        held = self._exporter.held_shards
        if not held or time.monotonic() - self._listed_at < LIST_EVERY_S:
            return
        self._listed_at = time.monotonic()
        try:
            listed = await note_shut_wallets(self._backend, held - self._exporter.frozen_shards)
        except LedgerUnavailable:
            return
        self.tally.wallets_shut = len(listed)


def assemble_repairer(settings: Settings, client: Any, exporter: Exporter) -> Repairer | None:
    """What repairs the shards of an exporter; None where operators do it. Raises DriverMissing."""
    if settings.redis.repair == "manual":
        return None
    watermark = OutboxWatermark()
    # A lease is given for the ledger's required store alone, so this store is the right one.
    store: Any = FreshStore(store_access(settings), lambda: None)
    backend = replace(backend_over(settings, client, store, watermark), actor=ACTOR)
    return Repairer(backend, exporter, watermark)


async def _until_set(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
