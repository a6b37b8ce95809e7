"""Shares, among the workers of all gates, which requests were charged but never fully delivered, so
that the worker that receives a retry recognises it.

Not part of the ledger: notes charge and refuse nothing, and they are kept for ten minutes.
Invariants: a note costs a request an append to a bounded queue; notes that cannot be written soon
are dropped; a request that is answered costs nothing.

One stream for all shards, `unanswered`: each worker reads all of it as it comes.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.notes import Note, pack_note, read_note

NAME: Final = "unanswered"
TOLD_FOR_MS: Final = 600_000
BLOCK_MS: Final = 2000
"""How long one XREAD waits; less than the client's timeout."""
AGAIN_S: Final = 1.0

Take = Callable[[Note, float], None]
"""Given a note and how many seconds ago it was written, by the ledger's clock."""


class UnansweredLog:
    """One worker's end of it. `post` from the event loop; `write` and `read` as tasks."""

    def __init__(
        self,
        client: Redis,
        *,
        namespace: str = "cg",
        max_entries: int = 10_000,
        queue_limit: int = 4096,
    ) -> None:
        """client: used for nothing else, because one of its connections is kept waiting."""
        self._client: Any = client
        self._stream = Keys(namespace).common(NAME)
        self._max_entries = max_entries
        self._queue: deque[Note] = deque(maxlen=queue_limit)
        self._posted = asyncio.Event()

    def post(self, note: Note) -> None:
        """Share a note with the other workers. Never blocks, never fails."""
        self._queue.append(note)
        self._posted.set()

    async def write(self) -> None:
        """Write what is posted, at once, until cancelled."""
        while True:
            await self._posted.wait()
            self._posted.clear()
            try:
                await self.flush()
            except (RedisError, OSError):
                await asyncio.sleep(AGAIN_S)
                self._posted.set()

    async def flush(self) -> None:
        """Write what waits, in one round trip. Raises RedisError, OSError; then it still waits."""
        batch = list(self._queue)
        if not batch:
            return
        async with self._client.pipeline(transaction=False) as pipe:
            for note in batch:
                pipe.xadd(self._stream, {b"n": pack_note(note)}, maxlen=self._max_entries)
            last = (await pipe.execute())[-1]
        for _ in batch:
            self._queue.popleft()
        oldest = str(max(0, _ms(last) - TOLD_FOR_MS))
        await self._client.xtrim(self._stream, minid=oldest, approximate=False)

    async def read(self, take: Take) -> None:
        """Take the notes of the last ten minutes, then each new one, until cancelled."""
        after: bytes | None = None
        while True:
            try:
                if after is None:
                    after = b"%d" % max(0, await self._now_ms() - TOLD_FOR_MS)
                reply = await self._client.xread({self._stream: after}, count=1000, block=BLOCK_MS)
                now_ms = await self._now_ms() if reply else 0
            except (RedisError, OSError):
                await asyncio.sleep(AGAIN_S)
                continue
            for _, entries in reply or ():
                for entry_id, fields in entries:
                    after = entry_id
                    note = read_note(fields.get(b"n", b""))
                    if note is not None:
                        take(note, max(0, now_ms - _ms(entry_id)) / 1000)

    async def _now_ms(self) -> int:
        seconds, micros = await self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000


def _ms(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])
