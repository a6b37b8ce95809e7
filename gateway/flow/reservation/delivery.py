"""Delivers settlements to the ledger, in tasks that outlive their requests.

Invariants: a settlement is never lost and never silent. The ledger takes it; else the journal keeps
it; what the ledger will never take is set aside and logged; and while neither ledger nor disk takes
it, it is offered again as long as the process lives. Every operation is idempotent by its id.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import structlog

from gateway.domain.reservation import Account, IdempotencyKey, Settled
from gateway.flow.reservation.pending_settlement import PendingSettlement
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.calls import ReleaseCall
from gateway.ledger.codec.journal_records import Record
from gateway.ledger.journal import SettleJournal
from gateway.ledger.journal_replay import Replayed
from gateway.ledger.reservations import Reservations
from gateway.telemetry.logs import failure
from gateway.telemetry.metrics import Counter

T = TypeVar("T")
Done = Callable[[Settled | None], None]
"""Called when a settlement has reached the ledger, or with None when it waits on disk."""

log = structlog.get_logger("gate")

OFFER_AGAIN_S: Final = 1.0
"""After both the ledger and the journal refused a settlement."""


class DeliveryCancelled(asyncio.CancelledError):
    """The caller of `Delivery.deliver_now` was cancelled. rest: the task in which it goes on"""

    def __init__(self, rest: asyncio.Task[Settled | None]) -> None:
        super().__init__()
        self.rest = rest


class Delivery:
    """Carries settlements to the ledger, or to the journal."""

    def __init__(self, ledger: Reservations, journal: SettleJournal, set_aside: Counter) -> None:
        """set_aside: counts the settlements that the ledger will never take."""
        self.ledger = ledger
        self.journal = journal
        self._refused = set_aside
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run in a task that is strongly referenced until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def deliver(self, pending: PendingSettlement, done: Done) -> asyncio.Task[Settled | None]:
        """Deliver in a separate task; its result is what `done` is called with. Never raises."""
        return self.spawn(self._carry_out(pending, done))

    async def deliver_now(
        self, pending: PendingSettlement, done: Done
    ) -> Settled | asyncio.Task[Settled | None]:
        """Deliver within the caller's task, for a client that waits for the cost.

        Returns what the ledger has answered; after a failure, the task in which it goes on. Raises
        DeliveryCancelled.
        """
        try:
            settled = await pending.send(self.ledger)
        except (Exception, asyncio.CancelledError) as fault:
            refusal = fault if isinstance(fault, Exception) else None
            rest = self.spawn(self._carry_out(pending, done, refusal))
            if refusal is None:
                raise DeliveryCancelled(rest) from None
            return rest
        done(settled)
        return settled

    def abandon(
        self, account: Account, reservation_id: str, facts: bytes, key: IdempotencyKey | None
    ) -> None:
        """A reserve whose outcome is unknown: release it by id, so that no hold leaks.

        facts: of the event, packed
        """
        call = ReleaseCall(reservation_id, facts, 0, key.key if key else "")
        pending = PendingSettlement(account, call)
        self.spawn(self._until_taken(pending))

    async def replay_journal(self) -> Replayed:
        """Deliver what waits in this worker's journal, until the ledger fails again."""
        return await self.journal.replay(self.replay_one)

    async def replay_one(self, record: Record) -> None:
        """Deliver one record, of this worker's journal or of a dead one's.

        Raises LedgerUnavailable to be asked again; anything else means that it never can be.
        """
        try:
            await PendingSettlement.from_record(record).send(self.ledger)
        except LedgerUnavailable:
            raise
        except Exception as refusal:
            self._refused.inc()
            named = str(record.get("reservation_id"))[:64]
            log.error("ending_set_aside", reservation_id=named, **failure(refusal))
            raise

    async def drain(self, grace_s: float) -> None:
        """Wait until every settlement has been taken by the ledger or by the journal."""
        deadline = time.monotonic() + grace_s
        while self._tasks and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        if self._tasks:
            log.error("endings_not_delivered", tasks=len(self._tasks))

    async def _carry_out(
        self, pending: PendingSettlement, done: Done, refusal: Exception | None = None
    ) -> Settled | None:
        """refusal: what the ledger answered when it was asked already"""
        settled = None
        try:
            settled = await self._until_taken(pending, refusal)
        finally:
            try:
                done(settled)
            except Exception as fault:
                log.error(
                    "ending_failed", reservation_id=pending.call.reservation_id, **failure(fault)
                )
        return settled

    async def _until_taken(
        self, pending: PendingSettlement, refusal: Exception | None = None
    ) -> Settled | None:
        warned = False
        while True:
            if refusal is None:
                try:
                    return await pending.send(self.ledger)
                except Exception as fault:
                    refusal = fault
            if await self._on_disk(pending, refusal, warn=not warned):
                return None
            warned, refusal = True, None
            await asyncio.sleep(OFFER_AGAIN_S)

    async def _on_disk(self, pending: PendingSettlement, refusal: Exception, *, warn: bool) -> bool:
        """Whether a settlement that the ledger did not take is on disk now: in the journal, or set
        aside."""
        if not isinstance(refusal, LedgerUnavailable):
            await self.set_aside(pending, refusal)
            return True
        try:
            await self.journal.append(pending.as_record())
        except Exception as fault:
            if warn:
                log.error(
                    "journal_failed", reservation_id=pending.call.reservation_id, **failure(fault)
                )
            return False
        return True

    async def set_aside(self, pending: PendingSettlement, refusal: Exception) -> None:
        """Keep on disk, and log by id, a settlement that the ledger will never take. Never raises."""
        self._refused.inc()
        which = {"reservation_id": pending.call.reservation_id, "verb": pending.verb}
        log.error("ending_set_aside", **which, **failure(refusal))
        try:
            await self.journal.set_aside(pending.as_record(), refusal)
        except Exception as fault:
            log.error("ending_lost", **which, **failure(fault))
