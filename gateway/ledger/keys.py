"""API keys that operators made while the gate runs; those of the configuration are not here.

| key | type | holds |
|---|---|---|
| `{cg}:keys` | hash | SHA-256 of the key → msgpack: `StoredKey` |
| `{cg}:killed` | set | ids of the keys whose running answers are cut |
"""

from dataclasses import replace
from typing import Any

from redis.asyncio import Redis

from gateway.domain.reservation import Key
from gateway.ledger.client import clock
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import unavailable
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.stored_keys import StoredKey, pack_key, read_key
from gateway.ledger.wallets import Wallets


class KeyDirectory:
    """The API keys of one ledger. Every method raises LedgerUnavailable."""

    def __init__(self, client: Redis, names: Keys) -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes
        self._keys, self._killed = names.common("keys"), names.common("killed")
        self._creation = names.common("creation")

    async def add(
        self, digest: str, key_id: str, customer_id: str, project_id: str | None = None
    ) -> StoredKey:
        """Put a key into the directory by its hash. Raises ValueError if the hash or id is taken."""
        if any(key_id == known.key_id for known in await self.entries()):
            raise ValueError(f"there is a key {key_id} already")
        now_ms = await clock.now_ms(self._client)
        key = StoredKey(digest, key_id, customer_id, project_id, now_ms)
        with unavailable():
            added = await self._client.hsetnx(self._keys, digest, pack_key(key))
        if not added:
            raise ValueError("this key is in the directory already")
        return key

    async def entries(self, customer_id: str | None = None) -> list[StoredKey]:
        """Keys of one customer or of all, revoked ones too, oldest first."""
        with unavailable():
            raw = await self._client.hgetall(self._keys)
        keys = [read_key(digest, packed) for digest, packed in raw.items()]
        wanted = [key for key in keys if customer_id in (None, key.customer_id)]
        return sorted(wanted, key=lambda key: (key.created_at_ms, key.key_id))

    async def find(self, digest: str) -> Key | None:
        """The key with this hash; None when unknown or revoked.

        An emptied ledger knows no key, and must not say that of its customers' keys: it raises
        LedgerUnavailable.
        """
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.hget(self._keys, digest)
            pipe.exists(self._creation)
            with unavailable():
                raw, created = await pipe.execute()
        if raw is None:
            if not created:
                raise LedgerUnavailable(
                    "the ledger is empty: its server has lost it, or is another one"
                )
            return None
        key = read_key(digest.encode(), raw)
        if key.revoked_at_ms is not None:
            return None
        return Key(key.key_id, key.customer_id, key.project_id)

    async def revoke(
        self, wallets: Wallets, key_id: str, *, kill: bool = False
    ) -> StoredKey | None:
        """Revoke a key permanently; None when no such key exists.

        The customer's revision is raised afterwards, so every gate looks the key up again at its
        next request. Calling it again after a failure repeats both steps.
        kill: cut its running answers, too
        """
        for key in await self.entries():
            if key.key_id == key_id:
                if key.revoked_at_ms is None:
                    key = replace(key, revoked_at_ms=await clock.now_ms(self._client))
                    with unavailable():
                        await self._client.hset(self._keys, key.digest, pack_key(key))
                if kill:
                    with unavailable():
                        await self._client.sadd(self._killed, key_id)
                await wallets.bump(key.customer_id, {"reason": "key revoked", "key_id": key_id})
                return key
        return None

    async def is_killed(self, key_id: str) -> bool:
        """Whether the running answers of this key are to be cut."""
        with unavailable():
            return bool(await self._client.sismember(self._killed, key_id))
