"""Open connections without a request.

Invariants:

- The last one in is the first one out, so that the others can close when load sinks.
- A connection that was used for a chunked response rests first: llama.cpp's server closes after a
  stream without having said so, and a request that follows at once would have no response.
- A connection is given away only if its socket has nothing to read.
"""

from collections import defaultdict, deque
from typing import Final

from gateway.http.client.connection import UpstreamConnection

REST_AFTER_STREAM_S: Final = 0.1
"""How long a connection is left alone after a chunked response, for its server's close to arrive."""


class IdleConnections:
    """The idle connections of a pool.

    separate: a connection serves the requests of one owner only
    """

    __slots__ = ("_ready", "_resting", "_separate", "_shared", "swept_at")

    def __init__(self, *, separate: bool) -> None:
        self._separate = separate
        self._ready: defaultdict[str, list[UpstreamConnection]] = defaultdict(list)
        """By whom they may serve: one entry, "", unless they are separate."""
        self._shared = self._ready[""]
        """That entry, which is never deleted."""
        self._resting: deque[UpstreamConnection] = deque()
        self.swept_at = 0.0
        """When the pool last looked at its deadlines (loop time): exact enough for `idle_since`."""

    def __len__(self) -> int:
        return sum(map(len, self._ready.values())) + len(self._resting)

    @property
    def resting(self) -> bool:
        """Whether some are resting."""
        return bool(self._resting)

    def take(self, owner: str) -> UpstreamConnection | None:
        """A connection that can carry a request of this owner, or None."""
        if self._resting:
            self.wake_rested()
        ready = self._ready.get(owner) if self._separate else self._shared
        while ready:
            connection = ready.pop()
            if connection.is_quiet():
                return connection
            connection.fail("closed while idle", "closed")
        return None

    def put(self, connection: UpstreamConnection) -> None:
        """Add a connection that has completed a response."""
        if connection.streamed:
            connection.streamed = False
            connection.idle_since = connection.loop.time()
            self._resting.append(connection)
            return
        connection.idle_since = self.swept_at
        (self._ready[connection.owner] if self._separate else self._shared).append(connection)

    def wake_rested(self) -> None:
        """Make those ready that have rested."""
        boundary = self._resting[0].loop.time() - REST_AFTER_STREAM_S
        while self._resting and self._resting[0].idle_since <= boundary:
            connection = self._resting.popleft()
            self._ready[connection.owner if self._separate else ""].append(connection)

    def remove(self, connection: UpstreamConnection) -> None:
        """Forget a connection that was lost; it need not be here."""
        if connection in self._resting:
            self._resting.remove(connection)
        for ready in self._ready.values():
            if connection in ready:
                ready.remove(connection)

    def expire(self, boundary: float) -> None:
        """Close those that have been idle since before the boundary (loop time)."""
        if self._resting:
            self.wake_rested()
        for key, ready in list(self._ready.items()):
            count = 0
            while count < len(ready) and ready[count].idle_since < boundary:
                count += 1
            expired = ready[:count]
            del ready[:count]
            for connection in expired:
                connection.fail("idle for too long", "closed")
            if not ready and key:
                del self._ready[key]

    def close_one(self) -> bool:
        """Close the one that has been idle longest, to make room; False when none is ready."""
        lists = [ready for ready in self._ready.values() if ready]
        if not lists:
            return False
        min(lists, key=lambda ready: ready[0].idle_since).pop(0).fail("made room", "closed")
        return True
