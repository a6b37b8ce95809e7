"""What extending a hold needs: of the worker, and of the reservation whose hold it is."""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.dialects.base import AnswerFacts
from gateway.domain.reservation import Hold
from gateway.flow.estimate import Estimate
from gateway.flow.plan import Plan
from gateway.flow.reservation.progress import KillReason, Progress
from gateway.ledger.reservations import Reservations


@dataclass(frozen=True, slots=True)
class GrowthServices:
    """What extending holds needs of a worker.

    key_killed: whether the running responses of a key are to be cut; raises LedgerUnavailable
    spawn:      runs work in a task that is kept until it ends
    """

    ledger: Reservations
    key_killed: Callable[[str], Awaitable[bool]]
    spawn: Callable[[Coroutine[Any, Any, None]], object]


class Growing(Protocol):
    """The reservation whose hold is extended. `estimate` and `held_nano` are written here alone."""

    plan: Plan
    hold: Hold
    estimate: Estimate
    held_nano: int
    facts: AnswerFacts
    progress: Progress
    due_at: float
    ended: bool

    def kill(self, reason: KillReason) -> None:
        """End the request at once."""
        ...

    def hold_vector(self, estimate: Estimate) -> bytes:
        """What the hold is to cover, packed for the ledger."""
        ...
