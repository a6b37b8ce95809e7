"""When requests are due: Poisson or evenly spaced, at a steady or a rising rate.

Invariants: the times are drawn before anything is sent, so that a slow answer never moves the next
request. A rate that changes bends the time axis: ticks of a clock that has one tick a request
are mapped to seconds.
"""

import itertools
import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

Spacing = Literal["poisson", "constant"]

_MOST_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class Pace:
    """Requests a second: `rate` while warming up, then in a straight line to `until_rate`.

    warmup_s, seconds: how long each of the two lasts
    """

    rate: float
    until_rate: float
    warmup_s: float
    seconds: float

    def shared(self, share: float) -> "Pace":
        """The same course at a share of the rate."""
        return Pace(self.rate * share, self.until_rate * share, self.warmup_s, self.seconds)

    def at_s(self, tick: float) -> float:
        """The second, from the start, at which this many requests have come due; inf if never."""
        warm = self.rate * self.warmup_s
        if tick < warm:
            return tick / self.rate
        rest = tick - warm
        rise = (self.until_rate - self.rate) / self.seconds
        # rest = rate*t + rise*t²/2; written so that rise 0 needs no case of its own
        root = self.rate * self.rate + 2 * rise * rest
        below = self.rate + math.sqrt(root) if root >= 0 else 0.0
        return self.warmup_s + 2 * rest / below if below > 0 else math.inf

    def rate_at(self, second: float) -> float:
        """Requests a second at this second after the warm-up."""
        return self.rate + (self.until_rate - self.rate) * second / self.seconds


def due_times(
    pace: Pace, spacing: Spacing, rng: random.Random, *, part: int = 0, parts: int = 1
) -> Iterator[float]:
    """Seconds from the start at which requests are due, in order, until the pace ends.

    part, parts: which of how many processes asks; together they keep the whole pace
    """
    ticks: Iterator[float]
    if spacing == "constant":
        ticks = itertools.count(part, parts)
    else:
        own = pace.shared(1 / parts)
        # as many independent Poisson processes, each with its share, are one of the whole rate
        pace = own
        ticks = itertools.accumulate(rng.expovariate(1.0) for _ in itertools.count())
    end_s = pace.warmup_s + pace.seconds
    return itertools.takewhile(lambda due_s: due_s < end_s, map(pace.at_s, ticks))


class Pacer(threading.Thread):
    """Hands over each due time when it has come, from a separate thread.

    An event loop's timers count whole milliseconds; a thread's sleep is some sixty microseconds
    late. What is due together is handed over together.

    dues:   `time.monotonic` seconds, ascending
    hand:   called in this thread with what is due now
    done:   called in this thread after the last
    """

    def __init__(
        self,
        dues: Iterable[float],
        hand: Callable[[list[float]], object],
        done: Callable[[], object],
    ) -> None:
        super().__init__(name="pacer", daemon=True)
        self._dues = dues
        self._hand = hand
        self._done = done
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Hand over nothing more."""
        self._stopped.set()

    def run(self) -> None:
        """The thread."""
        batch: list[float] = []
        for due_s in self._dues:
            pause_s = due_s - time.monotonic()
            if batch and (pause_s > 0 or len(batch) >= _MOST_AT_ONCE):
                self._hand(batch)
                batch = []
            if pause_s > 0:
                self._stopped.wait(pause_s)
            if self._stopped.is_set():
                return
            batch.append(due_s)
        if batch:
            self._hand(batch)
        self._done()
