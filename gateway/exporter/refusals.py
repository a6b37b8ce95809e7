"""Counts refusals into the required store, by the hour, before the ledger's capped stream forgets them.

Invariants: each entry of the stream is counted once: the store moves its cursor in the transaction that
adds the sums, and only from where this reader began. What callers may write as they like (a model
that does not exist) cannot fill the store: beyond `NAMES_MOST` names an hour they are counted together.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from gateway.domain.customers import wallet_id
from gateway.domain.refusals import HOUR_MS, MOST_NANO, RefusalHour
from gateway.exporter.holding import Holding
from gateway.exporter.sink import Sink, SinkUnavailable, Store
from gateway.exporter.tally import Tally
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.refusals import NotedRefusal, RefusalStream
from gateway.telemetry.metrics import OVERFLOW_LABEL

NAMES_MOST: Final = 200
"""Names of models that had no estimate, an hour, that are kept one by one."""
OTHER: Final = OVERFLOW_LABEL
PAGE: Final = 5000
_HOURS_KEPT: Final = 2
"""Entries come in the order of time, so names of older hours are not needed."""

Key = tuple[int, str, str, str]


class RefusalCounter:
    """Counts the refusals of one stream into one store: `run` until `stop`."""

    def __init__(
        self,
        stream: RefusalStream,
        store: Store,
        *,
        poll_s: float = 1.0,
        names_most: int = NAMES_MOST,
        tally: Tally | None = None,
        may_count: Callable[[], bool] = lambda: True,
    ) -> None:
        """may_count: whether this store is the one that counts, asked before each look"""
        self.tally = tally or Tally()
        self._stream = stream
        self._store = store
        self._poll_s = poll_s
        self._names_most = names_most
        self._may_count = may_count
        self._names: dict[int, set[str]] = {}
        self._cursor: str | None = None
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Count what the stream has now, if the ledger and the store answer, then end."""
        self._stopping.set()

    async def run(self) -> None:
        """Count until stopped. Waits out an unavailable ledger or store; raises only on a bug."""
        while True:
            stopping = self._stopping.is_set()
            try:
                more = await self._step()
            except (SinkUnavailable, LedgerUnavailable):  # the pump says so in the log
                self._cursor, more = None, False
            if more:
                continue
            if stopping:
                return
            try:
                await asyncio.wait_for(self._stopping.wait(), self._poll_s)
            except TimeoutError:
                continue

    async def _step(self) -> bool:
        """Count one page; whether there may be more."""
        if not self._may_count():
            self._cursor = None
            return False
        if self._cursor is None:
            self._cursor = await self._store.refusal_cursor()
        page = await self._stream.read(self._cursor, PAGE)
        if page is None:
            return False
        hours = self._hours(page.refusals)
        if await self._store.add_refusals(hours, self._cursor, page.last):
            self._cursor = page.last
            self.tally.refusals += len(page.refusals)
        else:
            self._cursor = None
        return True

    def _hours(self, refusals: Iterable[NotedRefusal]) -> list[RefusalHour]:
        sums: dict[Key, tuple[int, int]] = {}
        for noted in refusals:
            refused = noted.refused
            hour_ms = noted.noted_at_ms // HOUR_MS * HOUR_MS
            model = refused.model or ""
            if refused.estimate_nano is None and model:
                model = self._bounded(hour_ms, model)
            customer_id = refused.customer_id or ""
            reason = refused.reason
            if refused.mode == "shadow":  # so that no report adds them to what was refused
                customer_id = wallet_id(customer_id, "shadow")
                if refused.limit not in (None, "balance"):
                    reason = f"{reason}: {refused.limit}"
            key = hour_ms, customer_id, model, reason
            count, nano = sums.get(key, (0, 0))
            sums[key] = count + 1, min(MOST_NANO, nano + (refused.estimate_nano or 0))
        return [RefusalHour(*key, *both) for key, both in sums.items()]

    def _bounded(self, hour_ms: int, model: str) -> str:
        """The model, or what it is counted as once its hour has too many names."""
        names = self._names.get(hour_ms)
        if names is None:
            names = self._names[hour_ms] = set()
            if len(self._names) > _HOURS_KEPT:
                del self._names[next(iter(self._names))]
        if model not in names:
            if len(names) >= self._names_most:
                return OTHER
            names.add(model)
        return model


def count_into(
    sink: Sink, refusals: RefusalStream | None, tally: Tally, holding: Holding
) -> RefusalCounter | None:
    """What counts refusals while shards are held: one that stands by has another store."""
    if refusals is None:
        return None
    assert isinstance(sink, Store), "refusals are counted in the required store"
    return RefusalCounter(refusals, sink, tally=tally, may_count=lambda: bool(holding.shards))
