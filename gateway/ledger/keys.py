"""API keys that operators made while the gate runs; those of the configuration are not here.

| key | type | holds |
|---|---|---|
| `{cg}:keys` | hash | SHA-256 of the key → msgpack: `StoredKey` |
| `{cg}:key_ids` | hash | id of the key → its SHA-256 |
| `{cg:N}:keys:CUSTOMER` | set | SHA-256 of each of a customer's keys |
| `{cg}:killed` | set | ids of the keys whose running answers are cut |

Invariants: the indexes are written before the key, so that every key is in them; an entry of an index
without its key was left by a writer that failed. Keys of a ledger that had no indexes yet are entered
when the counts show it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import WatchError

from gateway.domain.customers import CustomerRecord
from gateway.domain.key_terms import KeyTerms
from gateway.domain.reservation import Key
from gateway.ledger.client import clock
from gateway.ledger.client.errors import LedgerRefusal, LedgerUnavailable
from gateway.ledger.client.faults import unavailable
from gateway.ledger.client.reading import pages
from gateway.ledger.codec.customer_records import read_customer
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.stored_keys import StoredKey, pack_key, read_key
from gateway.ledger.codec.wallet_records import read_account_rev
from gateway.ledger.wallets import Wallets

_NO_TERMS: Final = KeyTerms()


@dataclass(frozen=True, slots=True)
class AccountRead:
    """An account and what acts for it, of one moment or later: the revision was read first.

    account_rev: None when there is no such account
    record:      of a customer in the ledger; None for any other
    key:         None when it is unknown or revoked, or was not asked for
    complete:    False while the ledger has lost entries: what is missing may have been there
    """

    account_rev: int | None
    record: CustomerRecord | None
    key: Key | None
    complete: bool = True


class KeyDirectory:
    """The API keys of one ledger. Every method raises LedgerUnavailable."""

    def __init__(self, client: Redis, names: Keys) -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes
        self._names = names
        self._keys, self._ids = names.common("keys"), names.common("key_ids")
        self._killed = names.common("killed")
        self._creation = names.common("creation")

    async def add(
        self,
        digest: str,
        key_id: str,
        customer_id: str,
        project_id: str | None = None,
        terms: KeyTerms = _NO_TERMS,
    ) -> StoredKey:
        """Put a key into the directory by its hash. Raises ValueError if the hash or id is taken."""
        await self._index_all()
        now_ms = await clock.now_ms(self._client)
        key = StoredKey(digest, key_id, customer_id, project_id, now_ms, terms=terms)
        with unavailable():
            claimed = await self._client.hsetnx(self._ids, key_id, digest)
        if not claimed and await self.by_id(key_id) is not None:
            raise ValueError(f"there is a key {key_id} already")
        with unavailable():
            if not claimed:
                await self._client.hset(self._ids, key_id, digest)
            await self._client.sadd(self._of(customer_id), digest)
            added = await self._client.hsetnx(self._keys, digest, pack_key(key))
            if not added:
                await self._client.hdel(self._ids, key_id)
        if not added:
            raise ValueError("this key is in the directory already")
        return key

    async def entries(self, customer_id: str | None = None) -> list[StoredKey]:
        """Keys of one customer or of all, revoked ones too, oldest first."""
        await self._index_all()
        with unavailable():
            if customer_id is None:
                raw = await self._client.hgetall(self._keys)
            else:
                digests = sorted(await self._client.smembers(self._of(customer_id)))
                found = await self._client.hmget(self._keys, digests) if digests else []
                raw = dict(zip(digests, found, strict=True))
        keys = [read_key(digest, packed) for digest, packed in raw.items() if packed is not None]
        wanted = [key for key in keys if customer_id in (None, key.customer_id)]
        return sorted(wanted, key=lambda key: (key.created_at_ms, key.key_id))

    async def by_id(self, key_id: str) -> StoredKey | None:
        """The key of this id, also a revoked one; None when there is none."""
        await self._index_all()
        with unavailable():
            digest = await self._client.hget(self._ids, key_id)
            raw = None if digest is None else await self._client.hget(self._keys, digest)
        return None if raw is None else read_key(digest, raw)

    async def some_ids(self, count: int) -> list[str]:
        """Ids of some keys, for hints: about as many as wanted."""
        with unavailable():
            _, found = await self._client.hscan(self._ids, 0, count=count)
        return [name.decode() for name in found]

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
        if raw is None and not created:
            raise LedgerUnavailable(
                "the ledger is empty: its server has lost it, or is another one"
            )
        return _valid_key(digest, raw)

    async def read_account(self, customer_id: str, account_id: str, digest: str) -> AccountRead:
        """A wallet's revision, then its customer's record and a key of it: one round trip.

        digest: "" for no key
        """
        names = self._names
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.get(names.account(names.shard_of(account_id), account_id))
            pipe.get(names.record(names.shard_of(customer_id), customer_id))
            pipe.hget(self._keys, digest)
            with unavailable():
                wallet, record, key = await pipe.execute()
        return AccountRead(
            None if wallet is None else read_account_rev(wallet),
            None if record is None else read_customer(customer_id, record),
            _valid_key(digest, key),
        )

    async def change(
        self, wallets: Wallets, key: StoredKey, change: Callable[[StoredKey], StoredKey]
    ) -> StoredKey:
        """Change a key from what it is at this moment, and have every gate read it again; returns it as
        it is now. May be called again after a failure.

        change: without effects of its own, since it may be called several times
        """
        changed = await self._update(key, change)
        await self._reread(wallets, changed, "key changed")
        return changed

    async def revoke(
        self, wallets: Wallets, key_id: str, *, kill: bool = False
    ) -> StoredKey | None:
        """Revoke a key permanently; None when no such key exists.

        The wallet's revision is raised afterwards, so every gate looks the key up again at its next
        request. Calling it again after a failure repeats both steps.
        kill: cut its running answers, too
        """
        key = await self.by_id(key_id)
        if key is None:
            return None
        if key.revoked_at_ms is None:
            now_ms = await clock.now_ms(self._client)
            key = await self._update(key, lambda now: now.revoked(now_ms))
        if kill:
            with unavailable():
                await self._client.sadd(self._killed, key_id)
        await self._reread(wallets, key, "key revoked")
        return key

    async def is_killed(self, key_id: str) -> bool:
        """Whether the running answers of this key are to be cut."""
        with unavailable():
            return bool(await self._client.sismember(self._killed, key_id))

    async def _update(self, key: StoredKey, change: Callable[[StoredKey], StoredKey]) -> StoredKey:
        while True:
            async with self._client.pipeline(transaction=True) as pipe:
                with unavailable():
                    await pipe.watch(self._keys)
                    raw = await pipe.hget(self._keys, key.digest)
                before = key if raw is None else read_key(key.digest.encode(), raw)
                after = change(before)
                pipe.multi()
                pipe.hset(self._keys, key.digest, pack_key(after))
                with unavailable():
                    try:
                        await pipe.execute()
                    except WatchError:
                        continue
                return after

    async def _reread(self, wallets: Wallets, key: StoredKey, reason: str) -> None:
        try:
            await wallets.bump(key.as_key().account_id, {"reason": reason, "key_id": key.key_id})
        except LedgerRefusal as refused:
            # Without a wallet no gate can have admitted the key: none needs to be notified.
            if refused.word != "unknown_account":
                raise

    async def _index_all(self) -> None:
        """Enter keys that were made before there were indexes. The counts tell in one round trip."""
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.hlen(self._keys)
            pipe.hlen(self._ids)
            with unavailable():
                kept, known = await pipe.execute()
        if kept <= known:
            return
        with unavailable():
            raw = await self._client.hgetall(self._keys)
        await self._index(read_key(digest, packed) for digest, packed in raw.items())

    async def _index(self, keys: Iterable[StoredKey]) -> None:
        for page in pages(list(keys)):
            async with self._client.pipeline(transaction=False) as pipe:
                for key in page:
                    pipe.sadd(self._of(key.customer_id), key.digest)
                    pipe.hset(self._ids, key.key_id, key.digest)
                with unavailable():
                    await pipe.execute()

    def _of(self, customer_id: str) -> bytes:
        return self._names.keys_of(self._names.shard_of(customer_id), customer_id)


def _valid_key(digest: str, raw: bytes | None) -> Key | None:
    """None when unknown or revoked."""
    key = None if raw is None else read_key(digest.encode(), raw)
    return None if key is None or key.revoked_at_ms is not None else key.as_key()
