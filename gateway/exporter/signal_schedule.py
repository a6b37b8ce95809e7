"""Which signals wait for the webhook, as the store keeps them.

The schedule lies in the store, not in memory, so that it survives the process and another exporter can
go on with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class ScheduleUnavailable(Exception):
    """The store cannot be read or written now."""


@dataclass(frozen=True, slots=True)
class DueSignal:
    """A signal whose next attempt is due. Amounts in nano-credits, times in Unix ms; numbers: JSON."""

    position: int
    signal_id: str
    name: str
    customer_id: str
    event_id: str
    occurred_at_ms: int
    balance_nano: int
    numbers: str
    attempts: int
    waiting_since_ms: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """What one look has found.

    count, oldest_ms: signals that wait, and since when the oldest does
    buried: how many have become dead at this look, because they waited too long
    """

    due: Sequence[DueSignal] = ()
    count: int = 0
    oldest_ms: int | None = None
    buried: int = 0


@dataclass(frozen=True, slots=True)
class Attempted:
    """What became of an attempt. reason: None if it was accepted, else why not; then the next one is
    due at `next_attempt_at_ms`."""

    signal: DueSignal
    reason: str | None
    next_attempt_at_ms: int = 0


class SignalSchedule(Protocol):
    """The signals of one store. Synchronous: call it in one thread."""

    def find_due(self, now_ms: int, stale_ms: int, limit: int) -> Waiting:
        """Bury what has waited since `stale_ms` or longer, and return the signals that are due: at most
        `limit`, one per customer, its oldest. Nothing where there is no store yet.

        Raises ScheduleUnavailable.
        """
        ...

    def note(self, attempts: Sequence[Attempted], now_ms: int) -> None:
        """Record what became of attempts, in one transaction. Raises ScheduleUnavailable."""
        ...

    def resend(self, signal_id: str, now_ms: int) -> bool:
        """Queue a delivered or dead signal again; False when there is none such.

        Raises ScheduleUnavailable.
        """
        ...

    def close(self) -> None:
        """Release the connection. Idempotent; the other methods may follow."""
        ...
