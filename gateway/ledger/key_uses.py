"""When keys were used last: noted in memory by each worker, written every few seconds.

| key | type | holds |
|---|---|---|
| `{cg}:key_use` | hash | id of a key → Unix ms of a recent use, by a gate's clock |

Not part of the ledger: no behaviour depends on it, and a lost one is a note for people.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from redis.asyncio import Redis

from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import unavailable
from gateway.ledger.client.reading import pages
from gateway.ledger.codec.key_names import Keys

WRITE_EVERY_S: Final = 10.0
MAX_NOTED: Final = 50_000
"""Keys that are noted between two writes."""


class KeyUses:
    """The uses of one worker, and what all workers have written."""

    def __init__(self, client: Redis, names: Keys) -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes
        self._uses, self._ids = names.common("key_use"), names.common("key_ids")
        self._noted: dict[str, int] = {}

    def note(self, key_id: str, at_ms: int) -> None:
        """Remember a use until the next write."""
        if len(self._noted) < MAX_NOTED:
            self._noted[key_id] = at_ms

    async def run(self) -> None:
        """Write what was noted, without end."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            with suppress(LedgerUnavailable):
                await self.write()

    async def write(self) -> None:
        """Write what was noted. Raises LedgerUnavailable: then it is lost.

        Ids that are no keys of the ledger are left out: a gateway in front may name any number.
        """
        noted, self._noted = self._noted, {}
        for page in pages(sorted(noted)):
            with unavailable():
                found = await self._client.hmget(self._ids, page)
                known = {
                    key_id: noted[key_id]
                    for key_id, digest in zip(page, found, strict=True)
                    if digest is not None
                }
                if known:
                    await self._client.hset(self._uses, mapping=known)

    async def read(self, key_ids: Iterable[str]) -> dict[str, int]:
        """Unix ms of the last use of those keys that have one. Raises LedgerUnavailable."""
        used = {}
        for page in pages(list(key_ids)):
            with unavailable():
                found = await self._client.hmget(self._uses, page)
            used.update(
                {name: int(at) for name, at in zip(page, found, strict=True) if at is not None}
            )
        return used
