"""Writes many new customers and keys in a few round trips, for imports.

The records are those of `customers.py` and `keys.py`, with their invariants: indexes before what they
index, external ids claimed before the record has them, and nothing that is there is replaced.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from gateway.domain.customers import CustomerRecord
from gateway.ledger.client.faults import unavailable
from gateway.ledger.client.reading import pages
from gateway.ledger.codec.customer_records import pack_customer
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.stored_keys import StoredKey, pack_key, read_key
from gateway.ledger.customers import CustomerDirectory


class BulkWriter:
    """Over the records of one ledger. Every method raises LedgerUnavailable."""

    def __init__(self, client: Redis, names: Keys, customers: CustomerDirectory) -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes
        self._names = names
        self._customers = customers
        self._external = names.common("external")
        self._keys, self._ids = names.common("keys"), names.common("key_ids")

    async def keys_by_digest(self, digests: Sequence[str]) -> dict[str, StoredKey]:
        """Those of the keys that there are, also revoked ones."""
        found = {}
        for page in pages(digests):
            with unavailable():
                raws = await self._client.hmget(self._keys, page)
            found.update(
                {
                    digest: read_key(digest.encode(), raw)
                    for digest, raw in zip(page, raws, strict=True)
                    if raw is not None
                }
            )
        return found

    async def external_owners(self, wanted: Sequence[tuple[str, str]]) -> dict[str, str]:
        """Who has these external ids, by `SYSTEM:ID`: customer ids."""
        owners: dict[str, str] = {}
        for page in pages([":".join(pair) for pair in wanted]):
            with unavailable():
                raws = await self._client.hmget(self._external, page)
            owners.update(
                {
                    name: raw.decode()
                    for name, raw in zip(page, raws, strict=True)
                    if raw is not None
                }
            )
        records = await self._customers.read_many(set(owners.values()))
        valid = {
            (f"{system}:{external_id}", record.customer_id)
            for record in records.values()
            for system, external_id in record.external_ids.items()
        }
        return {name: owner for name, owner in owners.items() if (name, owner) in valid}

    async def create(self, records: Sequence[CustomerRecord]) -> dict[str, str]:
        """Keep new records. Returns why not, by customer id, for those that cannot be kept.

        The ids, and the external ids, are different ones.
        """
        refused = await self._claim(records)
        wanted = [record for record in records if record.customer_id not in refused]
        async with self._client.pipeline(transaction=False) as pipe:
            for record in wanted:
                pipe.set(self._record(record.customer_id), pack_customer(record), nx=True)
            with unavailable():
                made = await pipe.execute()
        kept = [record for record, done in zip(wanted, made, strict=True) if done]
        refused.update(
            {
                record.customer_id: f"there is, or was, a customer {record.customer_id} already"
                for record, done in zip(wanted, made, strict=True)
                if not done
            }
        )
        await self.enter(kept)
        return refused

    async def enter(self, records: Sequence[CustomerRecord]) -> None:
        """Enter customers into the list, and count those that were not in it; those of a writer that was
        interrupted may be missing."""
        async with self._client.pipeline(transaction=False) as pipe:
            for record in records:
                shard = self._names.shard_of(record.customer_id)
                pipe.zadd(self._names.directory(shard), {record.customer_id.encode(): 0})
            with unavailable():
                entered = await pipe.execute()
        counts = Counter(
            (self._names.shard_of(record.customer_id), record.plan)
            for record, new in zip(records, entered, strict=True)
            if new and record.plan is not None
        )
        async with self._client.pipeline(transaction=False) as pipe:
            for (shard, plan), count in counts.items():
                pipe.hincrby(self._names.plan_counts(shard), plan, count)
            with unavailable():
                await pipe.execute()

    async def add_keys(self, keys: Sequence[StoredKey]) -> set[str]:
        """Put keys into the directory. Returns the digests of those that are there already."""
        async with self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                shard = self._names.shard_of(key.customer_id)
                pipe.hsetnx(self._ids, key.key_id, key.digest)
                pipe.sadd(self._names.keys_of(shard, key.customer_id), key.digest)
            with unavailable():
                await pipe.execute()
        async with self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hsetnx(self._keys, key.digest, pack_key(key))
            with unavailable():
                added = await pipe.execute()
        return {key.digest for key, done in zip(keys, added, strict=True) if not done}

    async def _claim(self, records: Sequence[CustomerRecord]) -> dict[str, str]:
        """Enter the external ids; those that another customer has are refused, by customer id.

        An entry whose customer does not have the id was left by a writer that failed.
        """
        claims = [
            (pair, record.customer_id)
            for record in records
            for pair in sorted(record.external_ids.items())
        ]
        async with self._client.pipeline(transaction=False) as pipe:
            for pair, customer_id in claims:
                pipe.hsetnx(self._external, ":".join(pair), customer_id)
            with unavailable():
                entered = await pipe.execute()
        there = [claim for claim, done in zip(claims, entered, strict=True) if not done]
        owners = await self.external_owners([pair for pair, _ in there])
        refused: dict[str, str] = {}
        for pair, customer_id in there:
            name = ":".join(pair)
            owner = owners.get(name, customer_id)
            if owner != customer_id:
                refused[customer_id] = f"{owner} has the external id {name} already"
                continue
            with unavailable():
                await self._client.hset(self._external, name, customer_id)
        return refused

    def _record(self, customer_id: str) -> bytes:
        return self._names.record(self._names.shard_of(customer_id), customer_id)
