"""Writes of the admin API that had an idempotency key, with their answers.

| key | type | holds |
|---|---|---|
| `{cg}:write:SHA-256` | string, expires | by actor and idempotency key: `RecordedWrite` |

Invariants: of several requests with one key, one runs and the others get its answer. The record of a
running one expires early, so that a process that dies in between blocks the key for a minute at most; the
operations have idempotency keys of their own, so that running again is safe.
"""

from typing import Any, Final

from redis.asyncio import Redis

from gateway.ledger.client.faults import unavailable
from gateway.ledger.codec.admin_records import RecordedWrite, pack_write, read_write
from gateway.ledger.codec.key_names import Keys

KEPT_MS: Final = 86_400_000
RUNNING_MS: Final = 60_000


class RecordedWrites:
    """The records of one ledger. Every method raises LedgerUnavailable."""

    def __init__(self, client: Redis, names: Keys) -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes
        self._names = names

    async def begin(self, name: str, request_digest: bytes) -> RecordedWrite | None:
        """Record that a request runs; None, or what an earlier one with this name has recorded.

        name: SHA-256 of the actor and the idempotency key, in hex
        """
        key, running = self._key(name), RecordedWrite(request_digest)
        while True:
            with unavailable():
                if await self._client.set(key, pack_write(running), px=RUNNING_MS, nx=True):
                    return None
                raw = await self._client.get(key)
            if raw is not None:  # else it has expired in between
                return read_write(raw)

    async def finish(self, name: str, write: RecordedWrite) -> None:
        """Keep an answer for a day."""
        assert write.status is not None, "an answer has a status"
        with unavailable():
            await self._client.set(self._key(name), pack_write(write), px=KEPT_MS)

    async def forget(self, name: str) -> None:
        """Permit another attempt: the request had no outcome that is worth keeping."""
        with unavailable():
            await self._client.delete(self._key(name))

    def _key(self, name: str) -> bytes:
        return self._names.common(f"write:{name}")
