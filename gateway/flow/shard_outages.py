"""How long each shard of the ledger admits nothing, as one worker sees it.

An outage begins with the first request that is refused because of the ledger, and ends when the shard is
seen to serve. So a request that is admitted pays nothing for it, and a shard that nobody asks has none.
"""

import time
from collections.abc import Callable, Iterable

from gateway.ledger.client.errors import ShardClosed
from gateway.telemetry.metrics import Counter, Family


class ShardOutages:
    """The outages of all shards."""

    def __init__(
        self,
        seconds: Family[Counter],
        worker: str,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """seconds: counts them, by shard and worker; a shard without an outage has no count"""
        self._seconds = seconds
        self._worker = worker
        self._clock_s = clock_s
        self._counted_until: dict[int, float] = {}

    @property
    def shut(self) -> frozenset[int]:
        """Shards that admit nothing now."""
        return frozenset(self._counted_until)

    def refused(self, shard: int, error: Exception | None = None) -> None:
        """A request was refused because of the ledger. error: what it answered, where that is known; one
        that concerns a wallet alone does not count"""
        if not (isinstance(error, ShardClosed) and error.word == "unknown_account"):
            self._counted_until.setdefault(shard, self._clock_s())

    def serve(self, shards: Iterable[int]) -> None:
        """These shards admit requests again."""
        self.count()
        for shard in shards:
            self._counted_until.pop(shard, None)

    def count(self) -> None:
        """Add what has passed since it was counted last."""
        now = self._clock_s()
        for shard, until in self._counted_until.items():
            self._seconds.labels(str(shard), self._worker).inc(now - until)
            self._counted_until[shard] = now
