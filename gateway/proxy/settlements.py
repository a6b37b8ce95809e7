"""How reservations end and are kept alive: the tasks that outlive a request.

Law: an ending is never lost and never silent. The ledger takes it; else the journal keeps it;
what the ledger will never take is set aside and logged; and while neither ledger nor disk takes
it, it is offered again as long as the process lives. Every operation is idempotent by its id.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal, TypeVar

import structlog
from msgpack import packb

from gateway.domain.reservation import Account, Once, Settled
from gateway.domain.usage import TOKEN_UNITS, Usage
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.journal import Record, Replayed, SettleJournal
from gateway.ledger.operations import Ledger
from gateway.proxy.ending import Ending
from gateway.proxy.running import Run
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
        ledger: Ledger,
        journal: SettleJournal,
        observe: Callable[[Run, Settled], None],
        set_aside: Counter,
    ) -> None:
        """observe: called with each ending that the ledger takes at once (metrics, nothing slow).
        set_aside: counts the endings that the ledger will never take."""
        self.ledger = ledger
        self.live: set[Run] = set()
        """Reservations that have not ended."""
        self._journal = journal
        self._observe = observe
        self._refused = set_aside
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run in a task that is strongly referenced until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def settle(self, run: Run, usage: Usage) -> Settled | None:
        """Charge what was used; None when the ledger has not taken it yet. Never raises."""
        return await self._end(run, "settle", usage)

    async def release(self, run: Run) -> Settled | None:
        """Give all of the hold back; None when the ledger has not taken it yet. Never raises."""
        return await self._end(run, "release", {})

    def abandon(
        self, account: Account, reservation_id: str, facts: bytes, once: Once | None = None
    ) -> None:
        """A reserve whose outcome is unknown: release it by id, so that no hold leaks."""
        ending = Ending(
            verb="release",
            reservation_id=reservation_id,
            account=account,
            rows=b"",
            cost_rows=b"",
            used=b"",
            tokens=0,
            reserved_at_ms=0,
            facts=facts,
            once=once.key if once else "",
        )
        self.spawn(self._deliver(ending))

    async def _end(
        self, run: Run, verb: Literal["settle", "release"], usage: Usage
    ) -> Settled | None:
        try:
            prices = run.model.prices
            run.event["flags"] = run.flags
            settled = await self._deliver(
                Ending(
                    verb=verb,
                    reservation_id=run.hold.reservation_id,
                    account=run.account,
                    rows=prices.rows,
                    cost_rows=prices.cost_rows,
                    used=prices.vector(usage) if verb == "settle" else b"",
                    tokens=sum(q for unit, q in usage.items() if unit in TOKEN_UNITS),
                    reserved_at_ms=run.hold.reserved_at_ms,
                    facts=packb(run.event),
                    scope_bits=run.model.scope_bits,
                    once=run.once.key if run.once else "",
                )
            )
            if settled is not None:
                self._observe(run, settled)
            return settled
        except Exception as fault:
            # It cannot be said what to charge: the hold's expiry charges the last checkpoint.
            log.error("ending_failed", reservation_id=run.hold.reservation_id, **failure(fault))
            return None
        finally:
            self.live.discard(run)

    async def _deliver(self, ending: Ending) -> Settled | None:
        offered = 0
        while True:
            try:
                return await ending.send(self.ledger)
            except LedgerUnavailable:
                pass
            except Exception as refusal:
                await self._set_aside(ending, refusal)
                return None
            try:
                await self._journal.append(ending.as_record())
            except Exception as fault:
                if not offered:
                    log.error(
                        "journal_failed", reservation_id=ending.reservation_id, **failure(fault)
                    )
                offered += 1
                await asyncio.sleep(OFFER_AGAIN_S)
            else:
                return None

    async def _set_aside(self, ending: Ending, refusal: Exception) -> None:
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
            await Ending.from_record(record).send(self.ledger)
        except LedgerUnavailable:
            raise
        except Exception as refusal:
            self._refused.inc()
            named = str(record.get("reservation_id"))[:64]
            log.error("ending_set_aside", reservation_id=named, **failure(refusal))
            raise

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
