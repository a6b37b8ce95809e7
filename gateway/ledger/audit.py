"""Reads complete shards for `verify`: each shard's records as they were at one moment.

A hold moves a wallet, a deadline and a reservation in one script; whoever reads them one after
the other on a running system sees differences that are none. One MULTI reads all of a shard,
with `SORT_RO … BY nosort GET` in the part of a join, so nothing has to be asked twice. It costs
the server what the shard holds: some milliseconds for a thousand wallets.

A cluster of Redis 7 denies that join, and every server denies it to a user who may not read all keys.
There the MULTI reads the records of what was listed just before, and is repeated until nothing was
added in between.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.domain.delivery import START
from gateway.ledger.client.cluster.client import scan_names
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import unavailable
from gateway.ledger.client.reading import get_each, pages
from gateway.ledger.codec.done import DoneOperation, read_done, read_refunded
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.operations import GrantTerms
from gateway.ledger.codec.reservation_records import Ended, Reservation, read_reservation
from gateway.ledger.codec.shard_records import Shard, read_shard
from gateway.ledger.codec.unpacking import BadRecord
from gateway.ledger.codec.wallet_records import Wallet, read_wallet

_DENIED: Final = "option of sort denied"
_ATTEMPTS: Final = 50


@dataclass(frozen=True, slots=True)
class ShardSnapshot:
    """One shard at one moment.

    holds: pending reservations by id. faults: records that are not what they must be, as sentences
    """

    number: int
    shard: Shard
    wallets: dict[str, Wallet] = field(default_factory=dict)
    holds: dict[str, Reservation] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


class Audit:
    """Reads the ledger of one namespace while other clients use it."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client: Any = client
        self._joins = True
        """Whether the server joins; one that denies it is not asked again."""
        self.keys = keys

    async def snapshot(self, number: int) -> ShardSnapshot:
        """All of a shard's wallets and holds, at one moment. Raises LedgerUnavailable."""
        with unavailable():
            if self._joins:
                try:
                    record, accounts, reservations = await self._joined(number)
                except ResponseError as error:
                    if _DENIED not in str(error).lower():
                        raise
                    self._joins = False
            if not self._joins:
                record, accounts, reservations = await self._listed(number)
        shard = read_shard(record) if record else Shard(False, START, None)
        snapshot = ShardSnapshot(number, shard)
        for name, raw in zip(accounts[::2], accounts[1::2], strict=True):
            _take_wallet(snapshot, name.decode(), raw)
        for name, raw in zip(reservations[::2], reservations[1::2], strict=True):
            _take_hold(snapshot, name.decode(), raw)
        return snapshot

    async def _joined(self, number: int) -> Any:
        prefix = self.keys.prefix(number)
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.get(self.keys.meta(number))
            _join(pipe, self.keys.customers(number), prefix + b"a:*")
            _join(pipe, self.keys.due(number), prefix + b"r:*")
            return await pipe.execute()

    async def _listed(self, number: int) -> tuple[bytes | None, list[Any], list[Any]]:
        """The same without a join. Raises LedgerUnavailable for a shard that never rests."""
        prefix, client = self.keys.prefix(number), self._client
        customers: Any = await client.execute_command(b"SMEMBERS", self.keys.customers(number))
        held: Any = await client.execute_command(b"ZRANGE", self.keys.due(number), 0, -1)
        for _ in range(_ATTEMPTS):
            wanted, holds = sorted(customers), list(held)
            async with client.pipeline(transaction=True) as pipe:
                pipe.get(self.keys.meta(number))
                pipe.execute_command(b"SMEMBERS", self.keys.customers(number))
                pipe.execute_command(b"ZRANGE", self.keys.due(number), 0, -1)
                for name in wanted:
                    pipe.get(prefix + b"a:" + name)
                for name in holds:
                    pipe.get(prefix + b"r:" + name)
                record, customers, held, *found = await pipe.execute()
            accounts = dict(zip(wanted, found, strict=False))
            reservations = dict(zip(holds, found[len(wanted) :], strict=True))
            if accounts.keys() >= set(customers) and reservations.keys() >= set(held):
                return (
                    record,
                    [part for name in customers for part in (name, accounts[name])],
                    [part for name in held for part in (name, reservations[name])],
                )
        raise LedgerUnavailable(f"shard {number} changes too fast to be read at one moment; retry")

    async def frozen_snapshot(self, number: int) -> ShardSnapshot:
        """The same of a frozen shard. It stands still, so its records are read one after the other: with rights
        on the ledger's own keys alone, and without holding up the server. Raises LedgerUnavailable.
        """
        with unavailable():
            record: Any = await self._client.get(self.keys.meta(number))
            members: Any = await self._client.smembers(self.keys.customers(number))
            due: Any = await self._client.zrange(self.keys.due(number), 0, -1)
        shard = read_shard(record) if record else Shard(False, START, None)
        snapshot = ShardSnapshot(number, shard)
        customers = sorted(name.decode() for name in members)
        accounts = [self.keys.account(number, name) for name in customers]
        for name, raw in zip(customers, await self._get_paged(accounts), strict=True):
            _take_wallet(snapshot, name, raw)
        holds = [name.decode() for name in due]
        reservations = [self.keys.reservation(number, name) for name in holds]
        for name, raw in zip(holds, await self._get_paged(reservations), strict=True):
            _take_hold(snapshot, name, raw)
        return snapshot

    async def reservation(self, number: int, reservation_id: str) -> Reservation | Ended | None:
        """One reservation, pending or ended, or None. Raises LedgerUnavailable, BadRecord."""
        with unavailable():
            raw: Any = await self._client.get(self.keys.reservation(number, reservation_id))
        return read_reservation(raw) if raw else None

    async def find_reservation(self, reservation_id: str) -> tuple[int, Reservation | Ended] | None:
        """A reservation in whatever shard it is, with the shard's number; one round trip.

        Raises LedgerUnavailable, BadRecord.
        """
        async with self._client.pipeline(transaction=False) as pipe:
            for number in range(self.keys.shard_count):
                pipe.get(self.keys.reservation(number, reservation_id))
            with unavailable():
                found = await pipe.execute()
        for number, raw in enumerate(found):
            if raw:
                return number, read_reservation(raw)
        return None

    async def grant_names(self, customer_id: str) -> dict[int, str]:
        """Names of a customer's grants by number; of a nameless one the operation's id.

        Raises LedgerUnavailable.
        """
        number = self.keys.shard_of(customer_id)
        with unavailable():
            done: Any = await self._client.hgetall(self.keys.ops(number, customer_id))
        operations = {op_id.decode(): read_done(packed) for op_id, packed in done.items()}
        return {
            operation.number: operation.name or op_id
            for op_id, operation in operations.items()
            if operation.verb == "grant"
        }

    async def voided_grants(self, customer_id: str) -> frozenset[int]:
        """Numbers of a customer's grants that were voided. Raises LedgerUnavailable."""
        return frozenset(
            operation.voided_grant
            for operation in await self._operations(customer_id)
            if operation.verb == "void"
        )

    async def grant_terms(self, customer_id: str) -> dict[int, GrantTerms]:
        """Terms of a customer's grants by number, from the operations that made them. One that was
        voided is left out. Raises LedgerUnavailable."""
        operations = await self._operations(customer_id)
        voided = {each.voided_grant for each in operations if each.verb == "void"}
        return {
            each.number: each.grant_terms
            for each in operations
            if each.verb == "grant" and each.number not in voided
        }

    async def refunded_nano(self, customer_id: str, event_id: str) -> int:
        """What has been refunded of an event, over all refunds. Raises LedgerUnavailable."""
        number = self.keys.shard_of(customer_id)
        with unavailable():
            packed: Any = await self._client.hget(
                self.keys.ops(number, customer_id), f"refunded:{event_id}"
            )
        return read_refunded(packed) if packed else 0

    async def refund_of(self, customer_id: str, op_id: str) -> int | None:
        """How much the refund with this operation id gave back; None when there was none.

        Raises LedgerUnavailable.
        """
        number = self.keys.shard_of(customer_id)
        with unavailable():
            packed: Any = await self._client.hget(self.keys.ops(number, customer_id), op_id)
        if packed is None:
            return None
        operation = read_done(packed)
        return operation.refund_nano if operation.verb == "refund" else None

    async def _operations(self, customer_id: str) -> list[DoneOperation]:
        number = self.keys.shard_of(customer_id)
        with unavailable():
            done: Any = await self._client.hvals(self.keys.ops(number, customer_id))
        return [read_done(packed) for packed in done]

    async def reservations(self) -> AsyncIterator[list[tuple[int, str, Reservation | Ended]]]:
        """Every reservation, pending or ended, in pages of shard, id and record.

        Walks a running system: what begins or ends meanwhile may or may not be included.
        Raises LedgerUnavailable, also when not all of it could be read.
        """
        marks = {self.keys.prefix(n) + b"r:": n for n in range(self.keys.shard_count)}
        pattern = b"{%s:*}:r:*" % self.keys.namespace.encode()
        async for names in scan_names(self._client, pattern):
            records = await get_each(self._client, names)
            page = []
            for name, raw in zip(names, records, strict=True):
                mark, _, reservation_id = name.partition(b"}:r:")
                number = marks.get(mark + b"}:r:")
                if raw and number is not None:
                    page.append((number, reservation_id.decode(), read_reservation(raw)))
            yield page

    async def _get_paged(self, names: list[bytes]) -> list[bytes | None]:
        return [raw for page in pages(names) for raw in await get_each(self._client, page)]


def _join(pipe: Any, members: bytes, pattern: bytes) -> None:
    """Queue: each member of a set or sorted set, and the value of the key that it names."""
    pipe.execute_command(b"SORT_RO", members, b"BY", b"nosort", b"GET", b"#", b"GET", pattern)


def _take_wallet(snapshot: ShardSnapshot, customer_id: str, raw: bytes | None) -> None:
    if raw is None:
        snapshot.faults.append(f"customer {customer_id} is listed and has no wallet")
        return
    try:
        snapshot.wallets[customer_id] = read_wallet(raw)
    except BadRecord as error:
        snapshot.faults.append(f"the wallet of {customer_id} cannot be read: {error}")


def _take_hold(snapshot: ShardSnapshot, reservation_id: str, raw: bytes | None) -> None:
    if raw is None:
        snapshot.faults.append(f"reservation {reservation_id} has a deadline and no record")
        return
    try:
        record = read_reservation(raw)
    except BadRecord as error:
        snapshot.faults.append(f"reservation {reservation_id} cannot be read: {error}")
        return
    if isinstance(record, Ended):
        snapshot.faults.append(
            f"reservation {reservation_id} ended ({record.outcome}) and kept its deadline"
        )
    else:
        snapshot.holds[reservation_id] = record
