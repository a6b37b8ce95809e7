"""Records of the customers that are created while gates run; those of the configuration have none.

| key | type | holds |
|---|---|---|
| `{cg:N}:c:CUSTOMER` | string | msgpack: `CustomerRecord` |
| `{cg:N}:directory` | sorted set | ids of the shard's customers, without deleted ones; every score is 0 |
| `{cg:N}:plan_counts` | hash | plan → how many of the shard's customers have it, without deleted ones |
| `{cg}:plans` | hash | plan → digest of the terms that its customers' wallets have |
| `{cg}:external` | hash | SYSTEM:ID → customer id; valid only while the record has that external id |

Invariants: a record changes only from the content that its writer has read. A customer's id is never
used again: the record of a deleted one stays, without personal data.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import WatchError

from gateway.domain.customers import CustomerRecord
from gateway.ledger.client.cluster.client import is_cluster
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import unavailable
from gateway.ledger.client.reading import PAGE, execute_reached, get_each, pages
from gateway.ledger.codec.customer_records import pack_customer, read_customer
from gateway.ledger.codec.key_names import Keys

MAX_LISTED: Final = 1000
"""Customers of one page."""


class CustomerExists(Exception):
    """There is, or was, a customer of this id."""


class CustomerChanged(Exception):
    """The record is not what its writer had read: somebody else has changed it."""


class ExternalIdTaken(Exception):
    """Another customer has this external id. name: `SYSTEM:ID`."""

    def __init__(self, name: str, customer_id: str) -> None:
        super().__init__(f"{customer_id} has the external id {name} already")
        self.name = name
        self.customer_id = customer_id


@dataclass(frozen=True, slots=True)
class CustomerPage:
    """Customers in the order of their ids. after: where the next page begins; None on the last."""

    records: tuple[CustomerRecord, ...]
    after: str | None


class CustomerDirectory:
    """The records of one ledger. Every method raises LedgerUnavailable."""

    def __init__(self, client: Redis, names: Keys) -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes
        self._names = names
        self._external, self._plans = names.common("external"), names.common("plans")

    async def create(self, record: CustomerRecord) -> None:
        """Keep a new record. Raises CustomerExists, ExternalIdTaken."""
        key, directory, name = self._places(record.customer_id)
        await self._claim(record.customer_id, record.external_ids.items())
        taken = CustomerExists(f"there is, or was, a customer {record.customer_id} already")
        async with self._client.pipeline(transaction=True) as pipe:
            with unavailable():
                await pipe.watch(key)
                present = await pipe.exists(key)
            if present:
                raise taken
            pipe.multi()
            pipe.set(key, pack_customer(record))
            pipe.zadd(directory, {name: 0})
            self._count(pipe, None, record)
            with unavailable():
                try:
                    await pipe.execute()
                except WatchError as error:
                    raise taken from error

    async def read(self, customer_id: str) -> CustomerRecord | None:
        """The record, also of a deleted customer; None when there is none."""
        with unavailable():
            raw = await self._client.get(self._places(customer_id)[0])
        return None if raw is None else read_customer(customer_id, raw)

    async def read_many(self, customer_ids: Iterable[str]) -> dict[str, CustomerRecord]:
        """The records of those customers that have one."""
        found = {}
        for page in pages(list(customer_ids)):
            raws = await get_each(self._client, [self._places(name)[0] for name in page])
            found.update(
                {
                    name: read_customer(name, raw)
                    for name, raw in zip(page, raws, strict=True)
                    if raw is not None
                }
            )
        return found

    async def replace(self, before: CustomerRecord, after: CustomerRecord) -> None:
        """Change a record that was read as `before`. Raises CustomerChanged, ExternalIdTaken."""
        customer_id = before.customer_id
        key, directory, name = self._places(customer_id)
        new = after.external_ids.items() - before.external_ids.items()
        gone = before.external_ids.items() - after.external_ids.items()
        await self._claim(customer_id, new)
        async with self._client.pipeline(transaction=True) as pipe:
            with unavailable():
                await pipe.watch(key)
                raw = await pipe.get(key)
            if raw is None or read_customer(customer_id, raw) != before:
                raise CustomerChanged(f"{customer_id} was changed by someone else meanwhile")
            pipe.multi()
            pipe.set(key, pack_customer(after))
            self._count(pipe, before, after)
            if after.status == "deleted":
                pipe.zrem(directory, name)
            with unavailable():
                try:
                    await pipe.execute()
                except WatchError as error:
                    raise CustomerChanged(
                        f"{customer_id} was changed by someone else meanwhile"
                    ) from error
        if gone:
            with unavailable():
                await self._client.hdel(self._external, *map(_external_name, gone))

    async def page(self, *, after: str = "", limit: int = 100, prefix: str = "") -> CustomerPage:
        """Customers whose ids follow `after` and begin with `prefix`; deleted ones are not listed.

        Reads at most `limit` ids of each shard, however many customers there are.
        """
        limit = max(1, min(limit, MAX_LISTED))
        begin = f"({after}" if after and after >= prefix else f"[{prefix}"
        end = f"[{prefix}\xff" if prefix else "+"
        async with self._client.pipeline(transaction=False) as pipe:
            for shard in range(self._names.shard_count):
                pipe.zrange(
                    self._names.directory(shard),
                    begin if len(begin) > 1 else "-",
                    end,
                    bylex=True,
                    offset=0,
                    num=limit + 1,
                )
            with unavailable():
                runs = await pipe.execute()
        ids = sorted(name.decode() for run in runs for name in run)
        shown = ids[:limit]
        records = await self.read_many(shown)
        return CustomerPage(
            tuple(records[name] for name in shown if name in records),
            shown[-1] if len(ids) > limit else None,
        )

    async def walk(self) -> AsyncIterator[Sequence[CustomerRecord]]:
        """All customers in no particular order, in runs of at most `PAGE`; deleted ones are left out.

        What changes meanwhile is found now or by the next walk. Raises LedgerUnavailable at its end if a
        node of a cluster is away, after the customers of the others.
        """
        away: LedgerUnavailable | None = None
        for shard in range(self._names.shard_count):
            try:
                async for records in self._walk(shard):
                    yield records
            except LedgerUnavailable as error:
                if not is_cluster(self._client):
                    raise
                away = error
        if away is not None:
            raise away

    async def _walk(self, shard: int) -> AsyncIterator[Sequence[CustomerRecord]]:
        begin = "-"
        while True:
            with unavailable():
                names = await self._client.zrange(
                    self._names.directory(shard), begin, "+", bylex=True, offset=0, num=PAGE
                )
            ids = [name.decode() for name in names]
            if not ids:
                break
            yield list((await self.read_many(ids)).values())
            begin = f"({ids[-1]}"

    async def applied_plans(self) -> dict[str, str]:
        """By plan: the digest of the terms that all its customers have."""
        with unavailable():
            raw = await self._client.hgetall(self._plans)
        return {name.decode(): digest.decode() for name, digest in raw.items()}

    async def note_applied(self, digests: Mapping[str, str]) -> None:
        """All customers of these plans have their terms."""
        with unavailable():
            await self._client.hset(self._plans, mapping=dict(digests))

    async def count(self) -> int:
        """How many customers have a record, without deleted ones."""
        async with self._client.pipeline(transaction=False) as pipe:
            for shard in range(self._names.shard_count):
                pipe.zcard(self._names.directory(shard))
            with unavailable():
                return sum(await pipe.execute())

    async def plan_counts(self, *, reached: bool = False) -> dict[str, int]:
        """How many customers each plan has, without deleted ones; plans without any are left out.

        reached: without those whose node of a cluster is away
        """
        async with self._client.pipeline(transaction=False) as pipe:
            for shard in range(self._names.shard_count):
                pipe.hgetall(self._names.plan_counts(shard))
            if reached:
                replies = await execute_reached(pipe)
                found = [each for each in replies if not isinstance(each, LedgerUnavailable)]
            else:
                with unavailable():
                    found = await pipe.execute()
        counts: Counter[str] = Counter()
        for shard_counts in found:
            counts.update({name.decode(): int(count) for name, count in shard_counts.items()})
        return {plan: count for plan, count in counts.items() if count > 0}

    async def find_external(self, system: str, external_id: str) -> CustomerRecord | None:
        """The customer with this id in another system, such as ("stripe", "cus_…"); None if none."""
        with unavailable():
            raw = await self._client.hget(self._external, f"{system}:{external_id}")
        record = None if raw is None else await self.read(raw.decode())
        if record is None or record.external_ids.get(system) != external_id:
            return None
        return record

    def _count(self, pipe: Any, before: CustomerRecord | None, after: CustomerRecord) -> None:
        """Add the change of a record to the counts, in the transaction that makes it."""
        was, becomes = _counted_plan(before), _counted_plan(after)
        counts = self._names.plan_counts(self._names.shard_of(after.customer_id))
        if was == becomes:
            return
        if was is not None:
            pipe.hincrby(counts, was, -1)
        if becomes is not None:
            pipe.hincrby(counts, becomes, 1)

    async def _claim(self, customer_id: str, external_ids: Iterable[tuple[str, str]]) -> None:
        """Enter external ids before the record has them: two customers never have the same one. An
        entry whose customer does not have the id was left by a writer that failed, and is taken over."""
        for system, external_id in sorted(external_ids):
            name = f"{system}:{external_id}"
            with unavailable():
                if await self._client.hsetnx(self._external, name, customer_id):
                    continue
            owner = await self.find_external(system, external_id)
            if owner is not None and owner.customer_id != customer_id:
                raise ExternalIdTaken(name, owner.customer_id)
            with unavailable():
                await self._client.hset(self._external, name, customer_id)

    def _places(self, customer_id: str) -> tuple[bytes, bytes, bytes]:
        shard = self._names.shard_of(customer_id)
        names = self._names
        return names.record(shard, customer_id), names.directory(shard), customer_id.encode()


def _counted_plan(record: CustomerRecord | None) -> str | None:
    return None if record is None or record.status == "deleted" else record.plan


def _external_name(pair: Sequence[str]) -> str:
    return ":".join(pair)
