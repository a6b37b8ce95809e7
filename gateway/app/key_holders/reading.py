"""Reads of the required store for key holders: in threads of their own, so that requests never wait
for them, and bounded for each customer, so that customers do not wait for each other's."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from gateway.domain.stores import EventStore, StoreAccess, StoreMissing
from gateway.flow.refusals import Particulars, Refused

T = TypeVar("T")

MAX_WAIT_S: Final = 10.0
"""How long a caller waits for an answer."""
MAX_RUNNING: Final = 2
"""Reads of one customer that run or wait at the same time."""
_THREADS: Final = 2


class StoreReads:
    """Asks one store. For one event loop."""

    def __init__(self, access: StoreAccess) -> None:
        self._access = access
        self._threads = ThreadPoolExecutor(_THREADS, "key-holders")
        self._running: dict[str, int] = {}

    async def ask(self, customer_id: str, question: Callable[[EventStore], T]) -> T:
        """The answer to a customer's question. Raises Refused: too many of the customer's are running,
        the store cannot be read, or not in time."""
        running = self._running
        if running.get(customer_id, 0) >= MAX_RUNNING:
            raise Refused(
                "rate_limited",
                f"{MAX_RUNNING} questions of this customer are being answered. Try again shortly.",
                Particulars(reason="usage_busy", retry_after_s=1),
            )
        running[customer_id] = running.get(customer_id, 0) + 1
        asked = asyncio.get_running_loop().run_in_executor(self._threads, self._ask, question)
        asked.add_done_callback(lambda _: self._end(customer_id))
        done, _ = await asyncio.wait((asked,), timeout=MAX_WAIT_S)
        if not done:
            raise _unavailable("could not be read in time")
        try:
            return asked.result()
        except StoreMissing:
            raise _unavailable("cannot be read at the moment") from None

    def _ask(self, question: Callable[[EventStore], T]) -> T:
        with self._access.open_or_empty() as store:
            return question(store)

    def _end(self, customer_id: str) -> None:
        left = self._running[customer_id] - 1
        if left:
            self._running[customer_id] = left
        else:
            del self._running[customer_id]


def _unavailable(why: str) -> Refused:
    return Refused(
        "ledger_unavailable",
        f"The records of usage {why}. Try again shortly.",
        Particulars(reason="store_unavailable", retry_after_s=5),
    )
