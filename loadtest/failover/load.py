"""Requests of several customers at a steady rate, and when each customer was admitted."""

import asyncio
import random
import time
from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from loadtest import chaos
from loadtest.generator import Load, Outcome, Result
from loadtest.generator.result import Answer

CONNECTIONS: Final = 96
REFUSED: Final = 503
"""The gate's word for a ledger that cannot be asked."""


class Admissions:
    """When each customer was admitted: when the head of an answer came that was no refusal."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._heads_s: dict[str, list[float]] = {key: [] for key in keys}
        self._newest_s: dict[str, float] = dict.fromkeys(keys, 0.0)

    def note(self, key: str, sent_s: float, head_s: float) -> None:
        """One request that was admitted. Their answers end in any order."""
        self._newest_s[key] = max(self._newest_s[key], sent_s)
        insort(self._heads_s[key], head_s)

    def all_since(self, at_s: float) -> bool:
        """Whether every customer has sent a request after this moment that was admitted."""
        return min(self._newest_s.values()) > at_s

    def nobody_s(self, since_s: float, until_s: float) -> float:
        """The longest time in which nobody was admitted."""
        every = sorted(at_s for each in self._heads_s.values() for at_s in each)
        return _longest_gap(every, since_s, until_s)

    def somebody_not_s(self, since_s: float, until_s: float) -> float:
        """The longest time in which some customer was not admitted."""
        return max(_longest_gap(each, since_s, until_s) for each in self._heads_s.values())


class Traffic:
    """Streams and JSON answers, in turns for each customer, from `start` to `stop`."""

    def __init__(self, url: str, keys: Sequence[str], *, rate: float, seed: int = 0) -> None:
        """rate: requests a second of all customers together, whatever the gate answers"""
        self._keys = tuple(keys)
        self._more = True
        rng = random.Random(seed)
        mix = chaos.Mix(leaving=0.05, faulty=0.05)
        sources = [chaos.mixed([key], mix, rng, lambda: self._more) for key in self._keys]
        self._load = Load(
            url,
            lambda number: sources[number % len(sources)](number),
            connections=CONNECTIONS,
            rate=rate,
            seed=seed,
            drain_s=30.0,
            on_answer=self._note,
        )
        self._running: asyncio.Task[Result] | None = None
        self._refused_s: list[float] = []
        self._outcomes: list[Outcome] = []
        self.admissions = Admissions(self._keys)

    def start(self) -> None:
        """Begin to send."""
        self._running = asyncio.create_task(self._load.run())

    async def stop(self) -> Result:
        """Send no more; the sums, once what runs has ended."""
        self._more = False
        assert self._running is not None
        result = await self._running
        result.outcomes = self._outcomes
        return result

    def refused(self, since_s: float, until_s: float) -> int:
        """Requests that were refused for lack of a ledger."""
        return sum(since_s <= at_s <= until_s for at_s in self._refused_s)

    def _note(self, answer: Answer) -> None:
        request_id = answer.shot.request_id
        self._outcomes.append(
            Outcome(request_id, answer.status, answer.ending, 0, answer.sent_s, answer.ended_s)
        )
        if answer.status == REFUSED:
            self._refused_s.append(answer.ended_s)
        elif answer.status:
            key = self._keys[int(request_id.rpartition("-")[2]) % len(self._keys)]
            self.admissions.note(key, answer.sent_s, answer.first_byte_s)


def _longest_gap(times: Sequence[float], since_s: float, until_s: float) -> float:
    """Between two of these moments; of one that begins or ends outside the span, the part within it."""
    first = max(0, bisect_left(times, since_s) - 1)
    last = bisect_left(times, until_s) + 1
    gaps = pairwise(times[first:last])
    return max((min(after, until_s) - max(before, since_s) for before, after in gaps), default=0.0)


def now_s() -> float:
    """The clock of all moments here."""
    return time.monotonic()
