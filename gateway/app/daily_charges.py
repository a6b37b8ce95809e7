"""What each customer was charged today, kept up to date from the required store.

The sum of a busy customer's day costs a second of CPU and grows with the day. It is computed once
in each worker; after that only events that arrived since the last read are added. Reads run in one
thread of their own, concurrent reads of one customer share one query, and a caller does not wait
longer than `MAX_WAIT_S`.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from gateway.domain.stores import EventStore, StoreAccess, StoreMissing

DAY_MS: Final = 86_400_000
MAX_AGE_S: Final = 1.0
"""A sum is read again when it is older."""
MAX_WAIT_S: Final = 1.0
"""How long a caller waits for a sum; the query goes on, for those who ask later."""
MAX_CUSTOMERS: Final = 10_000
"""Sums kept; the one that was not read for longest is dropped first."""
OVERLAP_MS: Final = 60_000
"""The events of a customer are stored in the order of their times, except where the ledger's clock
was set back or a replica with a slower clock took over. New events up to so much older than the
newest are found; the index makes looking at the others again cheap."""


@dataclass(slots=True)
class _DaySum:
    """One customer's charges of one day, up to an event.

    day_ms:     the day's start, Unix ms UTC
    position:   of the newest event that is included
    newest_ms:  when it occurred
    read_at_s:  by the monotonic clock
    """

    day_ms: int
    amount_nano: int = 0
    position: int = 0
    newest_ms: int = 0
    read_at_s: float = 0.0


class DailyCharges:
    """Reads the required store. clock: monotonic, in seconds."""

    def __init__(self, access: StoreAccess, clock: Callable[[], float] = time.monotonic) -> None:
        self._access = access
        self._clock = clock
        self._sums: OrderedDict[str, _DaySum] = OrderedDict()
        self._running: dict[str, asyncio.Future[int | None]] = {}
        self._thread = ThreadPoolExecutor(1, "daily-charges")

    async def since_midnight(self, customer_id: str, now_ms: int) -> int | None:
        """Nano-credits charged since midnight UTC, as far as the store has them.

        None when the store cannot be read, or not in time.
        """
        kept = self._sums.get(customer_id)
        day_ms = now_ms - now_ms % DAY_MS
        if kept and kept.day_ms == day_ms and self._clock() - kept.read_at_s < MAX_AGE_S:
            return kept.amount_nano
        running = self._running.get(customer_id)
        if running is None:
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._thread, self.refresh, customer_id, day_ms)
            self._running[customer_id] = running
            running.add_done_callback(lambda _: self._running.pop(customer_id, None))
        # One caller that leaves must not cancel the query of the others.
        done, _ = await asyncio.wait((running,), timeout=MAX_WAIT_S)
        return running.result() if done else None

    def refresh(self, customer_id: str, day_ms: int) -> int | None:
        """Add what the store has received since the last read. Runs in the thread."""
        kept = self._sums.get(customer_id)
        if kept is None or kept.day_ms != day_ms:
            kept = _DaySum(day_ms)
        try:
            with self._access.open() as store:
                if not self._add_new(store, customer_id, kept):
                    kept = _DaySum(day_ms)
                    self._add_new(store, customer_id, kept)
        except StoreMissing:
            return None
        kept.read_at_s = self._clock()
        self._sums[customer_id] = kept
        self._sums.move_to_end(customer_id)
        if len(self._sums) > MAX_CUSTOMERS:
            self._sums.popitem(last=False)
        return kept.amount_nano

    @staticmethod
    def _add_new(store: EventStore, customer_id: str, kept: _DaySum) -> bool:
        """False when the store is not the one that was read before: a backup was restored."""
        since_ms = max(kept.day_ms, kept.newest_ms - OVERLAP_MS)
        new = store.charges_since(customer_id, since_ms, kept.position)
        if new.last_position < kept.position:
            return False
        kept.amount_nano += new.amount_nano
        kept.position = max(kept.position, new.position)
        kept.newest_ms = max(kept.newest_ms, new.newest_ms)
        return True
