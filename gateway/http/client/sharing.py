"""Shares a pool's connections out among owners: who may use another one, who waits, who is next.

An owner may use another connection while it uses fewer than `GREED` times those that are free (the
dynamic threshold of shared-memory switches, Choudhury and Hahne 1998). One busy owner so gets
four fifths of a pool, two get four ninths each, and there is always a remainder for one that has
none in use. Freed connections go to the waiting owner that uses the fewest.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.http.client.connection import UpstreamConnection

GREED: Final = 4


@dataclass(eq=False, slots=True)
class Waiter:
    """A request that waits for a connection.

    turn: resolves to a connection, or to None: it may open one
    """

    owner: str
    deadline: float
    turn: asyncio.Future[UpstreamConnection | None]


class Shares:
    """How many connections each owner uses. The owner "" is nobody in particular, and not limited.

    most: connections that may be in use at a time

    A pool counts only while it has so many connections that an owner could be above its share
    (`counting`); with fewer, a request costs nothing here.
    """

    __slots__ = ("_ample", "_most", "_used", "busy", "counting")

    def __init__(self, most: int) -> None:
        self._most = most
        self._ample = most * GREED // (GREED + 1)
        """Below this many in use, nobody can be above its share."""
        self._used: defaultdict[str, int] = defaultdict(int)
        self.busy = 0
        self.counting = self._ample == 0
        """Whether `add` and `remove` are to be called, and `allows` may refuse."""

    def resize(self, connection_count: int, owners: Iterable[str]) -> None:
        """Count while the pool has this many connections, open or being opened, or stop it.

        owners: of the connections that are in use now
        """
        counting = connection_count >= self._ample
        if counting == self.counting:
            return
        self.counting = counting
        self._used.clear()
        self.busy = 0
        if counting:
            for owner in owners:
                self.add(owner)

    def used(self, owner: str) -> int:
        """Connections that this owner uses now."""
        return self._used.get(owner, 0)

    def allows(self, owner: str) -> bool:
        """Whether this owner may use another connection now."""
        busy = self.busy
        if busy < self._ample:
            return True
        free = self._most - busy
        return free > 0 and (not owner or self.used(owner) < GREED * free)

    def add(self, owner: str) -> None:
        """The owner uses one more."""
        self.busy += 1
        self._used[owner] += 1

    def remove(self, owner: str) -> None:
        """The owner uses one less."""
        self.busy -= 1
        left = self._used[owner] - 1
        if left:
            self._used[owner] = left
        else:
            del self._used[owner]


class FairQueue:
    """The requests that wait. It never holds more than `most`.

    When it is full, the owner with the most waiting makes room for one that has fewer.
    """

    __slots__ = ("_most", "_waiting", "count")

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[str, deque[Waiter]] = {}
        """By owner; no entry is empty."""
        self.count = 0

    def add(self, waiter: Waiter) -> Waiter | None:
        """Add at the end of its owner's line. Returns who does not fit: another, itself, or None."""
        line = self._waiting.get(waiter.owner)
        left = None
        if self.count >= self._most:
            longest = max(self._waiting.values(), key=len, default=None)
            if longest is None or len(longest) <= (len(line) if line else 0) + 1:
                return waiter
            left = longest[-1]
            self.discard(left)
        if line is None:
            self._waiting[waiter.owner] = deque([waiter])
        else:
            line.append(waiter)
        self.count += 1
        return left

    def first(self, shares: Shares) -> Waiter | None:
        """The first in line of the owner that uses the fewest; among equals, who came first."""
        return min(
            (line[0] for line in self._waiting.values()),
            key=lambda waiter: (shares.used(waiter.owner), waiter.deadline),
            default=None,
        )

    def discard(self, waiter: Waiter) -> None:
        """Take a waiter out; it need not be here."""
        line = self._waiting.get(waiter.owner)
        if line is None or waiter not in line:
            return
        line.remove(waiter)
        self.count -= 1
        if not line:
            del self._waiting[waiter.owner]

    def take_expired(self, now: float) -> list[Waiter]:
        """Take out those whose deadline has passed."""
        expired = [w for line in self._waiting.values() for w in line if w.deadline < now]
        for waiter in expired:
            self.discard(waiter)
        return expired

    def take_all(self) -> list[Waiter]:
        """Take out everyone."""
        return self.take_expired(float("inf"))
