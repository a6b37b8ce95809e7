"""Refusals of the last days, kept in one capped stream so that `why` can explain them.

Not part of the ledger: nothing is reserved or charged by a refusal, and an unfunded caller
must not fill the memory. Hence the invariants: noting one costs the hot path an append to a
bounded queue that drops its oldest entry; the stream is capped by number and by age; what cannot
be written is counted, not retried.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgpack.exceptions import UnpackException
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.ledger.client.faults import unavailable
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.refusals import RefusedRequest, pack_refusal, read_refusal

NAME: Final = "refusals"
DAY_MS: Final = 86_400_000
CLOCK_SKEW_MS: Final = 10_000
LONGEST_REFUSAL_MS: Final = 180_000
"""From the head of a request, whose body may be slow, to the note of its refusal."""
NEAR_ENTRIES: Final = 50_000


@dataclass(frozen=True, slots=True)
class NotedRefusal:
    """A refusal read back; `noted_at_ms` by the ledger's clock, some milliseconds after it happened."""

    refused: RefusedRequest
    noted_at_ms: int


class RefusalLog:
    """Writes refusals behind the requests' back. `note` from the event loop, `run` as a task."""

    def __init__(
        self,
        client: Redis,
        *,
        namespace: str = "cg",
        max_entries: int = 100_000,
        max_age_ms: int = 3 * DAY_MS,
        queue_limit: int = 4096,
        flush_s: float = 0.25,
    ) -> None:
        self.dropped = 0
        """Refusals that were not written: the queue was full, or the ledger away."""
        self._client = client
        self._stream = Keys(namespace).common(NAME)
        self._max_entries = max_entries
        self._max_age_ms = max_age_ms
        self._queue: deque[RefusedRequest] = deque()
        self._queue_limit = queue_limit
        self._flush_s = flush_s

    def note(self, refused: RefusedRequest) -> None:
        """Remember one refusal. Never blocks, never fails."""
        queue = self._queue
        if len(queue) >= self._queue_limit:
            queue.popleft()
            self.dropped += 1
        queue.append(refused)

    async def run(self) -> None:
        """Write what was noted, a few times a second, until cancelled; then a last time."""
        try:
            while True:
                await asyncio.sleep(self._flush_s)
                await self.flush()
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await self.flush()

    async def flush(self) -> None:
        """Write what is waiting, in one round trip."""
        if not self._queue:
            return
        batch, self._queue = self._queue, deque()
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for refused in batch:
                    pipe.xadd(
                        self._stream,
                        {
                            b"i": refused.request_id,
                            b"r": pack_refusal(refused),
                        },
                        maxlen=self._max_entries,
                        approximate=True,
                    )
                last: Any = (await pipe.execute())[-1]
            oldest_ms = int(last.partition(b"-")[0]) - self._max_age_ms
            await self._client.xtrim(self._stream, minid=str(max(0, oldest_ms)), approximate=True)
        except (RedisError, OSError):
            self.dropped += len(batch)


@dataclass(frozen=True, slots=True)
class RefusalPage:
    """Some entries of the stream, in order. last: the id of the last one, readable or not."""

    refusals: Sequence[NotedRefusal]
    last: str


class RefusalStream:
    """Reads the stream from a place on, for the exporter."""

    def __init__(self, client: Redis, *, namespace: str = "cg") -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes
        self._stream = Keys(namespace).common(NAME)

    async def read(self, after: str, limit: int) -> RefusalPage | None:
        """Read at most `limit` entries behind the entry `after`; None if there are none.

        An entry that cannot be read is passed over. Raises LedgerUnavailable.
        """
        with unavailable():
            entries = await self._client.xrange(self._stream, f"({after}", "+", count=limit)
        if not entries:
            return None
        found = []
        for entry_id, fields in entries:
            try:
                refused = read_refusal(fields[b"r"])
            except (KeyError, TypeError, ValueError, UnpackException):
                continue
            found.append(NotedRefusal(refused, int(entry_id.partition(b"-")[0])))
        return RefusalPage(found, entries[-1][0].decode())


async def find_refusal_near(
    client: Any, request_id: str, at_ms: int, *, namespace: str = "cg"
) -> NotedRefusal | None:
    """The refusal of a request that came at this moment (Unix ms, by a gate's clock).

    Looks at the entries around it, at most `NEAR_ENTRIES`, so that callers may ask. Raises
    LedgerUnavailable.
    """
    wanted, stream = request_id.encode(), Keys(namespace).common(NAME)
    begin: bytes | int = max(0, at_ms - CLOCK_SKEW_MS)
    for _ in range(NEAR_ENTRIES // 2000):
        with unavailable():
            page: Any = await client.xrange(stream, begin, at_ms + LONGEST_REFUSAL_MS, count=2000)
        for entry_id, fields in page:
            if fields[b"i"] == wanted:
                return NotedRefusal(read_refusal(fields[b"r"]), int(entry_id.partition(b"-")[0]))
        if len(page) < 2000:
            return None
        begin = b"(" + page[-1][0]
    return None


async def find_refusal(
    client: Redis,
    request_id: str,
    *,
    namespace: str = "cg",
    most: int = 200_000,
    progress: Callable[[int], None] | None = None,
) -> NotedRefusal | None:
    """The refusal of a request, searched backwards among the latest `most`.

    progress: called with the number of entries searched so far. Raises LedgerUnavailable.
    """
    wanted, stream = request_id.encode(), Keys(namespace).common(NAME)
    end, seen = b"+", 0
    while seen < most:
        with unavailable():
            page: Any = await client.xrevrange(stream, end, b"-", count=min(2000, most - seen))
        for entry_id, fields in page:
            if fields[b"i"] == wanted:
                return NotedRefusal(read_refusal(fields[b"r"]), int(entry_id.partition(b"-")[0]))
        seen += len(page)
        if progress is not None:
            progress(seen)
        if len(page) < 2000:
            return None
        end = b"(" + page[-1][0]
    return None


async def latest_refusals(
    client: Redis,
    wanted: Callable[[RefusedRequest], bool],
    limit: int,
    *,
    namespace: str = "cg",
    most: int = 20_000,
) -> list[NotedRefusal]:
    """At most `limit` refusals that are wanted, the latest first, among the latest `most`.

    Raises LedgerUnavailable.
    """
    stream, end, seen = Keys(namespace).common(NAME), b"+", 0
    found: list[NotedRefusal] = []
    while seen < most:
        with unavailable():
            page: Any = await client.xrevrange(stream, end, b"-", count=min(1000, most - seen))
        for entry_id, fields in page:
            try:
                refused = read_refusal(fields[b"r"])
            except (KeyError, TypeError, ValueError, UnpackException):
                continue
            if wanted(refused):
                found.append(NotedRefusal(refused, int(entry_id.partition(b"-")[0])))
                if len(found) == limit:
                    return found
        if len(page) < 1000:
            return found
        seen += len(page)
        end = b"(" + page[-1][0]
    return found
