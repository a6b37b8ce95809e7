"""Reservations of requests that run whatever the ledger says: in shadow mode, and bypassing it.

The flow treats them as any other. In shadow mode what was used is charged to the shadow wallet; a
request that bypasses the ledger has no hold, no settlement and no event.
"""

import asyncio
import time
from types import TracebackType
from typing import Final

from gateway.domain.reservation import Hold, IdempotencyKey
from gateway.flow.context import RequestContext
from gateway.flow.estimate import Estimate
from gateway.flow.reservation.pending_settlement import PendingSettlement
from gateway.flow.reservation.progress import KillReason
from gateway.flow.reservation.reservation import Reservation, ReservationServices
from gateway.http.interface import ClientGone, UpstreamError

WOULD_DENY: Final = "would_deny"
"""Flag of an event whose request would have been refused; the reason is the flag behind it."""


class _Unenforced(Reservation):
    """A client's Idempotency-Key has no effect: each of its requests runs."""

    def __init__(
        self,
        services: ReservationServices,
        context: RequestContext,
        _: IdempotencyKey | None = None,
    ) -> None:
        super().__init__(services, context, None)


class Shadowed(_Unenforced):
    """A hold on a shadow wallet."""

    _holds = True
    _charges = True

    async def __aenter__(self) -> "Shadowed":
        shadow = await self.services.shadow(self.context)
        self.hold = hold = shadow.hold
        self.held_nano = hold.held_nano
        self.estimate = self.context.estimate
        self._charges = shadow.charges
        objection = self.context.objection
        if objection is not None:
            self._holds = False
            self.context.decision = WOULD_DENY
            self.progress.flag(WOULD_DENY)
            self.progress.flag(objection.reason)
        self.services.noted_customer(self.context)
        if shadow.held:
            self.due_at = time.monotonic() + self.plan.policy.checkpoint_interval_ms / 1000
        self.services.live.add(self)
        return self

    def hold_vector(self, estimate: Estimate) -> bytes:
        """What the hold is to cover: nothing for a request that would have been refused."""
        vector = super().hold_vector(estimate)
        return vector if self._holds else bytes(len(vector))

    def kill(self, reason: KillReason) -> None:
        """End the request if the gate stops; a shadow wallet's status ends nothing."""
        if reason == "gate_stopped":
            super().kill(reason)

    def _end(self) -> PendingSettlement | None:
        pending = super()._end()
        if self._charges:
            return pending
        self.services.live.discard(self)
        return None


class Bypassed(_Unenforced):
    """No reservation: the request runs, and nothing is known of what it used."""

    async def __aenter__(self) -> "Bypassed":
        self.context.decision = "bypass"
        self.hold = Hold(self.context.request_id, 0, 0, 0, 0)
        self.services.noted_customer(self.context)
        return self

    def client_left(self) -> None:
        """The client has gone: nothing is read on for its sake."""
        self.client_gone = True
        if self.interrupt is not None:
            asyncio.get_running_loop().call_soon(self._interrupt)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.interrupt = None
        self.ended = True
        self._growth = None  # each refers to the other
        if isinstance(error, UpstreamError):
            self.note_failure(error, "upstream_failed")
        elif isinstance(error, asyncio.CancelledError):
            raise ClientGone from None
