"""How reservations end and are kept alive: the tasks that outlive a request.

Invariants: an ending is never lost and never silent. The ledger takes it; else the journal keeps it;
what the ledger will never take is set aside and logged; and while neither ledger nor disk takes
it, it is offered again as long as the process lives. Every operation is idempotent by its id.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import structlog

from gateway.dialects.base import RequestFacts
from gateway.domain.reservation import Account, IdempotencyKey, Settled
from gateway.domain.usage import OUTPUT_UNITS, TOKEN_UNITS, Usage, without_tier
from gateway.flow.catalog import Model, Policy
from gateway.flow.expected_output import ExpectedOutput
from gateway.flow.reservation.pending_settlement import PendingSettlement, Verb, pack_facts
from gateway.flow.reservation.run import Run
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.journal import Record, Replayed, SettleJournal
from gateway.ledger.reservations import Reservations
from gateway.telemetry.logs import failure
from gateway.telemetry.metrics import Counter

T = TypeVar("T")

log = structlog.get_logger("gate")


OFFER_AGAIN_S: Final = 1.0
"""After both the ledger and the journal refused an ending."""

BEAT_S: Final = 0.5
"""How often the holds are looked through for those to be extended."""


class Settlements:
    """Carries out endings and extends; keeps the holds of running requests alive."""

    def __init__(
        self,
        ledger: Reservations,
        journal: SettleJournal,
        observe: Callable[[Run, Settled], None],
        set_aside: Counter,
        key_killed: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        """observe: called with each ending that the ledger takes at once (metrics, nothing slow).
        set_aside: counts the endings that the ledger will never take.
        key_killed: whether the running answers of a key are to be cut, by its id"""
        self.ledger = ledger
        self.expected = ExpectedOutput()
        self.live: set[Run] = set()
        """Reservations that have not ended."""
        self._journal = journal
        self._observe = observe
        self._refused = set_aside
        self._key_killed = key_killed
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run in a task that is strongly referenced until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def end(self, run: Run, verb: Verb, usage: Usage) -> Settled | None:
        """Charge what was used, or give all of the hold back; None when the ledger has not taken it
        yet. Never raises."""
        ending = self._ending(run, verb, usage)
        return None if ending is None else await self._carry_out(run, ending)

    async def end_at_once(
        self, run: Run, verb: Verb, usage: Usage, told: asyncio.Future[Settled | None]
    ) -> None:
        """`end` within the caller's task, for a client that waits for it. Returns when the ledger has
        said what became of it: its answer is in `told`, or what is left to do goes on in a task of
        its own, as it does after a cancellation, and tells `told` later.
        """
        ending = self._ending(run, verb, usage)
        if ending is None:
            told.set_result(None)
            return
        try:
            settled = await ending.send(self.ledger)
        except (Exception, asyncio.CancelledError) as fault:
            refusal = fault if isinstance(fault, Exception) else None
            rest = self.spawn(self._carry_out(run, ending, refusal))
            rest.add_done_callback(
                lambda _: told.set_result(None if rest.cancelled() else rest.result())
            )
            if refusal is None:
                raise
        else:
            self.live.discard(run)
            told.set_result(settled)
            self._observe(run, settled)

    def expected_output(
        self, account: Account, facts: RequestFacts, model: Model, policy: Policy
    ) -> int | None:
        """What an answer is expected to have, where the policy goes by that and enough were seen."""
        if not facts.stream or policy.expected_share is None:
            return None
        return self.expected.output(account.customer_id, model.name, policy.expected_share)

    def abandon(
        self,
        account: Account,
        reservation_id: str,
        facts: bytes,
        idempotency: IdempotencyKey | None = None,
    ) -> None:
        """A reserve whose outcome is unknown: release it by id, so that no hold leaks."""
        ending = PendingSettlement(
            verb="release",
            reservation_id=reservation_id,
            account=account,
            rows=b"",
            cost_rows=b"",
            used=b"",
            tokens=0,
            reserved_at_ms=0,
            facts=facts,
            idempotency=idempotency.key if idempotency else "",
        )
        self.spawn(self._deliver(ending))

    def _ending(self, run: Run, verb: Verb, usage: Usage) -> PendingSettlement | None:
        """How this run ends; None, with the fault logged, when that cannot be said: then the expiry
        of the hold charges the last checkpoint."""
        prices, hold = run.model.prices, run.hold
        run.event["flags"] = run.flags
        tokens = output = 0
        for unit, quantity in usage.items():
            if unit in TOKEN_UNITS:
                tokens += quantity
                if unit in OUTPUT_UNITS or without_tier(unit) in OUTPUT_UNITS:
                    output += quantity
        try:
            if verb == "settle" and run.stage == "whole":
                self.expected.note(run.account.customer_id, run.model.name, output)
            return PendingSettlement(
                verb,
                hold.reservation_id,
                run.account,
                prices.rows,
                prices.cost_rows,
                prices.vector(usage) if verb == "settle" else b"",
                tokens,
                hold.reserved_at_ms,
                pack_facts(run.event),
                run.model.scope_bits,
                run.idempotency.key if run.idempotency else "",
            )
        except Exception as fault:
            log.error("ending_failed", reservation_id=hold.reservation_id, **failure(fault))
            self.live.discard(run)
            return None

    async def _carry_out(
        self, run: Run, ending: PendingSettlement, refusal: Exception | None = None
    ) -> Settled | None:
        try:
            settled = await self._deliver(ending, refusal)
            if settled is not None:
                self._observe(run, settled)
            return settled
        except Exception as fault:
            log.error("ending_failed", reservation_id=ending.reservation_id, **failure(fault))
            return None
        finally:
            self.live.discard(run)

    async def _deliver(
        self, ending: PendingSettlement, refusal: Exception | None = None
    ) -> Settled | None:
        """refusal: what the ledger answered when it was asked already"""
        warned = False
        while True:
            if refusal is None:
                try:
                    return await ending.send(self.ledger)
                except Exception as fault:
                    refusal = fault
            if await self._kept(ending, refusal, warn=not warned):
                return None
            warned, refusal = True, None
            await asyncio.sleep(OFFER_AGAIN_S)

    async def _kept(self, ending: PendingSettlement, refusal: Exception, *, warn: bool) -> bool:
        """Whether an ending that the ledger did not take is on disk now: in the journal, or set aside."""
        if not isinstance(refusal, LedgerUnavailable):
            await self._set_aside(ending, refusal)
            return True
        try:
            await self._journal.append(ending.as_record())
        except Exception as fault:
            if warn:
                log.error("journal_failed", reservation_id=ending.reservation_id, **failure(fault))
            return False
        return True

    async def _set_aside(self, ending: PendingSettlement, refusal: Exception) -> None:
        self._refused.inc()
        said = {"reservation_id": ending.reservation_id, "verb": ending.verb}
        log.error("ending_set_aside", **said, **failure(refusal))
        try:
            await self._journal.set_aside(ending.as_record(), refusal)
        except Exception as fault:
            log.error("ending_lost", **said, **failure(fault))

    async def replay_journal(self) -> Replayed:
        """Deliver what waits in this worker's journal, until the ledger fails again."""
        return await self._journal.replay(self.replay_one)

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

    async def key_killed(self, key_id: str) -> bool:
        """Whether the running answers of this key are to be cut. Raises LedgerUnavailable."""
        return self._key_killed is not None and await self._key_killed(key_id)

    def look_at(self, customer_id: str | None) -> None:
        """An account was changed (None: any may have been): its running answers ask the ledger now."""
        for run in tuple(self.live):
            if customer_id in (None, run.account.customer_id):
                run.look()

    def stop_running(self) -> None:
        """End every running answer, for the gate stops: each is charged what was delivered."""
        for run in tuple(self.live):
            run.kill("gate_stopped")

    async def drain(self, grace_s: float) -> None:
        """Wait until every ending has been taken by the ledger or by the journal."""
        deadline = time.monotonic() + grace_s
        while self._tasks and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        if self._tasks:
            log.error("endings_not_delivered", tasks=len(self._tasks))

    async def keep_alive(self) -> None:
        """Extend the holds of running requests, each at its policy's interval. Never ends."""
        while True:
            await asyncio.sleep(BEAT_S)
            now = time.monotonic()
            for run in tuple(self.live):
                if now >= run.due_at:
                    run.extend()
