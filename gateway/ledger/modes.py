"""The modes that operators have set while gates run.

| key | type | holds |
|---|---|---|
| `{cg}:modes` | hash | customer id, or "" for everything → msgpack: `SetMode`; `~rev` → changes with each change |

Workers read `~rev` every second, and all of it when that has changed. No id has a `~`.
"""

import secrets
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from gateway.domain.modes import SetMode
from gateway.ledger.client import clock
from gateway.ledger.client.faults import unavailable
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.mode_records import pack_mode, read_mode

EVERYTHING: Final = ""
"""The field of the mode for everything."""
ANNOUNCED: Final = "~modes"
"""What is announced on the channel of changes when a mode was set."""
_REVISION: Final = b"~rev"


@dataclass(frozen=True, slots=True)
class ModesSet:
    """All that operators have set. revision: another one after each change"""

    revision: bytes
    everything: SetMode | None
    customers: dict[str, SetMode]


NOTHING_SET: Final = ModesSet(b"", None, {})


class ModeStore:
    """The modes of one ledger. Every method raises LedgerUnavailable."""

    def __init__(self, client: Redis, names: Keys) -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes
        self._key = names.common("modes")

    async def read(self, known: ModesSet = NOTHING_SET) -> ModesSet:
        """What is set now; `known` itself where nothing has changed since."""
        with unavailable():
            revision = await self._client.hget(self._key, _REVISION) or b""
            if revision == known.revision:
                return known
            fields = await self._client.hgetall(self._key)
        # What was set in between is in `fields` already, and makes the next look read again.
        modes = {
            name.decode(): read_mode(packed) for name, packed in fields.items() if name != _REVISION
        }
        return ModesSet(revision, modes.pop(EVERYTHING, None), modes)

    async def now_ms(self) -> int:
        """The time by the ledger's clock, in Unix ms."""
        return await clock.now_ms(self._client)

    async def set(self, customer_id: str | None, mode: SetMode) -> None:
        """Set the mode of a customer, or of everything."""
        fields = {customer_id or EVERYTHING: pack_mode(mode), _REVISION: secrets.token_bytes(8)}
        with unavailable():
            await self._client.hset(self._key, mapping=fields)

    async def reset(self, customer_id: str | None) -> None:
        """Return a customer, or everything, to what the configuration says."""
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.hdel(self._key, customer_id or EVERYTHING)
            pipe.hset(self._key, _REVISION, secrets.token_bytes(8))
            with unavailable():
                await pipe.execute()
