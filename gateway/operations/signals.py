"""Alerts that wallets have raised (called signals), and their deliveries by webhook."""

import time
from collections.abc import Sequence
from typing import Protocol

from gateway.domain.delivery import SignalState, StoredSignal
from gateway.operations.errors import NotFound


class SignalStore(Protocol):
    """The part of the event store that keeps signals."""

    def signals(
        self, limit: int = 100, *, state: SignalState | None = None, customer_id: str | None = None
    ) -> Sequence[StoredSignal]:
        """The latest signals, oldest first."""
        ...


class SignalQueue(Protocol):
    """Where signals wait for their delivery."""

    def resend(self, signal_id: str, now_ms: int) -> bool:
        """Queue a signal that was delivered or given up; False when there is none such."""
        ...


def list_signals(
    store: SignalStore, limit: int, state: SignalState | None, customer_id: str | None
) -> Sequence[StoredSignal]:
    """The latest signals, oldest first, of one state or customer where one is given."""
    return store.signals(limit, state=state, customer_id=customer_id)


def resend_signal(queue: SignalQueue, signal_id: str) -> None:
    """Send a signal again under the same id. Raises NotFound, and what the queue raises."""
    if not queue.resend(signal_id, time.time_ns() // 1_000_000):
        raise NotFound(f"there is no signal {signal_id} that was delivered or given up")
