"""One admitted request, from its hold to the settlement.

    async with Reservation(services, context, key) as reservation:
        …

Invariants: entering the block reserves credit or raises; leaving it, in whatever way, ends the
reservation by exactly one settle or release. The decision is made at once and without awaiting;
`Delivery` carries it out, shielded from the client and from the server's shutdown.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final

import structlog

from gateway.dialects.base import AnswerFacts
from gateway.domain.reservation import Hold, IdempotencyKey, Settled
from gateway.domain.usage_facts import UsageFacts
from gateway.flow.context import RequestContext
from gateway.flow.estimate import Estimate
from gateway.flow.expected_output import ExpectedOutput
from gateway.flow.kept_responses import ANSWER_MAX_BYTES
from gateway.flow.refusals import refused_by_kill
from gateway.flow.reservation.delivery import Delivery, DeliveryCancelled
from gateway.flow.reservation.growing import GrowthServices
from gateway.flow.reservation.growth import NEVER, Growth
from gateway.flow.reservation.pending_settlement import PendingSettlement
from gateway.flow.reservation.progress import KillReason, Progress
from gateway.flow.reservation.settlement import settlement_of
from gateway.flow.retries import Retries
from gateway.flow.shadow_hold import ShadowHold
from gateway.http.interface import CancelledUnsent, ClientGone, UpstreamError
from gateway.telemetry.logs import failure

log = structlog.get_logger("gate")


@dataclass(frozen=True, slots=True)
class ReservationServices:
    """What reservations need of a worker.

    reserve:  holds the estimate of a request that may be named by its client; raises what refuses it
    shadow:   holds what it can of a request in shadow mode
    live:     the reservations that have not ended; each adds and removes itself
    settled:  called when the ledger has taken the end of a reservation
    noted_customer: called with each request whose reserve does not show whether its key is valid
    """

    reserve: Callable[[RequestContext, IdempotencyKey | None], Awaitable[Hold]]
    shadow: Callable[[RequestContext], Awaitable[ShadowHold]]
    delivery: Delivery
    growth: GrowthServices
    expected: ExpectedOutput
    retries: Retries
    live: "set[Reservation]"
    settled: "Callable[[Reservation, Settled], None]"
    noted_customer: Callable[[RequestContext], None]


NOTHING_SEEN: Final = AnswerFacts()
"""What was seen of a response that has not begun. Never changed: a meter brings facts of its own."""


class Reservation:
    """A hold of `context.estimate` while its request runs. The flow notes what it sees; leaving the
    block reads it.

    idempotency: the client's name for its request
    estimate:   grows with the hold of a stream
    facts:      what the response has shown; the meter's
    event:      what the usage event says
    ended:      it is being settled or released
    due_at:     when the hold must be extended at the latest, by the monotonic clock
    interrupt:  called when the request must end at once; the flow sets it
    kept:       the complete response for repeats of this request: status, content type, body
    """

    # Defaults of the class, not of the instance: most reservations change few of them.
    hold: Hold
    held_nano: int = 0
    facts: AnswerFacts = NOTHING_SEEN
    released: bool = False
    kept: tuple[int, str, bytes] | None = None
    interrupt: Callable[[], object] | None = None
    client_gone: bool = False
    due_at: float = NEVER
    ended: bool = False
    ended_at: float = 0.0
    _growth: Growth | None = None
    _settling: "asyncio.Future[Settled | None] | None" = None

    def __init__(
        self,
        services: ReservationServices,
        context: RequestContext,
        idempotency: IdempotencyKey | None,
    ) -> None:
        self.services = services
        self.context = context
        self.plan = context.plan
        self.estimate = context.estimate
        self.event: UsageFacts = context.event
        self.progress = Progress(streaming=context.facts.stream)
        self.idempotency = idempotency

    # While it runs

    @property
    def growth(self) -> Growth:
        """Extends the hold: of a stream after each piece, of others at their checkpoints."""
        if self._growth is None:
            self._growth = Growth(self.services.growth, self)
        return self._growth

    @property
    def last_flag(self) -> str:
        """What was noticed last; "" when nothing was odd."""
        flags = self.progress.flags
        return flags[-1] if flags else ""

    @property
    def linger_ms(self) -> int:
        """How long the upstream is read on after the client has gone."""
        if self.plan.model.free:
            return 0  # there is no usage to read on for
        policy = self.plan.policy
        by = policy.disconnect_stream if self.progress.streaming else policy.disconnect_json
        drains = by == "drain" or self.plan.model.hidden_output
        return policy.drain_max_ms if drains else 0

    def client_left(self) -> None:
        """The client's connection is lost, or was before this was asked for.

        The upstream is read on for `linger_ms` at most; what the client does not have of the response,
        it may ask for again.
        """
        self.client_gone = True
        if not self._end_passed:
            self.services.retries.attempt(self.context).left()
        if self.interrupt is not None:
            asyncio.get_running_loop().call_later(self.linger_ms / 1000, self._interrupt)

    def _interrupt(self) -> None:
        if self.interrupt is not None:
            self.interrupt()

    def kill(self, reason: KillReason) -> None:
        """The operator ends this request. Without effect once it is complete or was cut."""
        if self.progress.kill(reason):
            self._interrupt()

    def note_failure(self, error: UpstreamError, flag: str) -> None:
        """The upstream failed. flag: for the event, unless a deadline passed"""
        self.progress.flag("upstream_timeout" if error.timeout else flag)
        self.event.upstream_error = error.cause

    def hold_vector(self, estimate: Estimate) -> bytes:
        """What the hold is to cover, packed for the ledger."""
        return estimate.hold_vector(self.plan.model)

    def look(self) -> None:
        """The account was changed: ask the ledger for this hold now."""
        self.growth.look()

    def keep(self, status: int, media_type: str, body: bytes) -> None:
        """Keep the complete response for repeats of this request, if the policy wants that."""
        wanted = self.idempotency is not None and self.plan.policy.keep_answers
        if wanted and len(body) <= ANSWER_MAX_BYTES:
            self.kept = status, media_type, body

    async def settled_within(self, wait_s: float) -> Settled | None:
        """End now and wait for the ledger's answer, a bounded time; None when it takes longer.

        The ledger's own deadline bounds the usual wait, so that it needs no task and no timer.
        """
        assert not self.ended, "a reservation ends once"
        self.ended = True
        pending = self._end()
        if pending is None:
            return None
        try:
            answer = await self.services.delivery.deliver_now(pending, self._settled)
        except DeliveryCancelled as cancelled:
            self._settling = cancelled.rest
            raise
        if isinstance(answer, Settled):
            return answer
        self._settling = answer
        await asyncio.wait((answer,), timeout=wait_s)
        return answer.result() if answer.done() else None

    # The block

    async def __aenter__(self) -> "Reservation":
        self.hold = hold = await self.services.reserve(self.context, self.idempotency)
        self.held_nano = hold.held_nano
        self.estimate = self.context.estimate  # lowered, perhaps, to what the wallet affords
        if self.estimate.lowered is not None:
            self.progress.flag("clamped")
        self.due_at = time.monotonic() + self.plan.policy.checkpoint_interval_ms / 1000
        self.services.live.add(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the reservation, and say what a lost client or an operator's kill means.

        Raises ClientGone for a request that was cancelled because its client left; Refused for one
        that the operator has ended.
        """
        self.interrupt = None
        complete = False
        if error is None:
            complete = self._is_complete
        elif isinstance(error, UpstreamError):
            self.note_failure(error, "upstream_failed")
        elif isinstance(error, ClientGone | asyncio.CancelledError):
            self.progress.leave(unsent=isinstance(error, CancelledUnsent))
        if not self.ended:
            self.resolve()
        delivered = complete or self._end_passed
        if not delivered or self.context.attempt is not None:
            self.services.retries.attempt(self.context).finish(
                answered=delivered, released=self.released
            )
        if error is not None and isinstance(error, asyncio.CancelledError):
            if self.progress.killed is not None:
                raise refused_by_kill(self.progress.killed) from None
            raise ClientGone from None

    def resolve(self) -> "asyncio.Future[Settled | None] | None":
        """Settle what was used, or release it all. Idempotent, immediate.

        Returns what to wait for; None when nothing is left to wait for.
        """
        if not self.ended:
            self.ended = True
            pending = self._end()
            if pending is not None:
                self._settling = self.services.delivery.deliver(pending, self._settled)
        return self._settling

    @property
    def _is_complete(self) -> bool:
        """Whether the client, who is still there, has a complete response with nothing to retry."""
        progress = self.progress
        return progress.stage == "complete" and progress.status < 400 and not self.facts.error

    @property
    def _end_passed(self) -> bool:
        """Whether the end of a stream was passed on; clients leave on it."""
        return self.progress.streaming and self.facts.finish_reason is not None

    # The end

    def _end(self) -> PendingSettlement | None:
        """Decide how it ends. None, with the fault logged, where that fails: then the expiry of the
        hold charges the last checkpoint."""
        self.ended_at = time.monotonic()
        growth = self._growth
        if growth is not None:
            growth.close()
        try:
            return settlement_of(self)
        except Exception as fault:
            reservation_id = self.hold.reservation_id
            log.error("ending_failed", reservation_id=reservation_id, **failure(fault))
            self.services.live.discard(self)
            return None
        finally:
            if growth is not None:
                # It refers to this reservation: together they would stay until cycles are looked for.
                self._growth = None

    def _settled(self, settled: Settled | None) -> None:
        """The delivery has ended: the ledger has taken it, or the journal has."""
        self.services.live.discard(self)
        if settled is not None:
            self.services.settled(self, settled)
