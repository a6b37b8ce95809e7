"""Batches, waits and their bounds; a stop cuts every wait short."""

import asyncio
import random
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PumpOptions:
    """batch_limit: events per batch, about; linger_s: pause after a batch of less than half of that,
    so that a trickle is not one disk sync per event; attempts: of one event before it is a dead letter;
    backoff_s: first wait, doubled up to backoff_max_s; block_ms: wait for news in one read;
    watch_s: between looks at the shards' heads; acknowledge_s: between acknowledgements under load.
    """

    batch_limit: int = 4096
    linger_s: float = 0.05
    attempts: int = 8
    backoff_s: float = 0.1
    backoff_max_s: float = 10.0
    block_ms: int = 500
    watch_s: float = 1.0
    acknowledge_s: float = 0.1


class Pace:
    """Waits of one loop until it is stopped."""

    def __init__(self, options: PumpOptions) -> None:
        self.options = options
        self._stopping = asyncio.Event()
        self._deadline = float("inf")

    def stop(self, grace_s: float) -> None:
        """Let the work end within `grace_s`. A second call can only shorten that."""
        self._deadline = min(self._deadline, time.monotonic() + grace_s)
        self._stopping.set()

    def allow(self, seconds: float) -> None:
        """Set a deadline without a stop, for work that is given up after a while."""
        self._deadline = time.monotonic() + seconds

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    @property
    def past_deadline(self) -> bool:
        """Whether the grace is over."""
        return time.monotonic() >= self._deadline

    @property
    def remaining_s(self) -> float:
        """What is left of the grace; five seconds where nobody has stopped yet."""
        return min(5.0, self._deadline - time.monotonic()) if self.stopping else 5.0

    def backoff_s(self, attempt: int) -> float:
        """How long to wait after a failed attempt: exponential, with jitter."""
        options = self.options
        bound = min(options.backoff_max_s, options.backoff_s * 2.0 ** min(attempt, 20))
        return bound * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret

    async def pause(self, seconds: float) -> None:
        """Sleep; wake when stopping, and then pause only briefly."""
        if self.stopping:
            await asyncio.sleep(min(seconds, 0.05))
            return
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
