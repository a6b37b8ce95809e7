"""What is read and kept off the hot path: wallets, holds, deadlines, API keys, prices, the ledger's
creation. Through redis-py; no balance moves here, that is for the scripts alone.
"""

from collections.abc import AsyncIterator, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from msgpack import packb, unpackb
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from gateway.domain.pricing import PriceTable, Rate, unpack_rates, unpack_rows
from gateway.domain.reservation import Account, Key
from gateway.domain.standing import Standing
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import explain, refusal_of
from gateway.ledger.client.scripts import Script
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.layout import LAYOUT
from gateway.ledger.codec.records import (
    DueReservation,
    Ended,
    Reservation,
    Wallet,
    read_reservation,
    read_sweep_at_ms,
    read_wallet,
)
from gateway.ledger.outbox import unavailable
from gateway.ledger.pricebook import PriceBooks
from gateway.ledger.standing import counted_in, standings_of
from gateway.ledger.wallets import Wallets

_PAGE: Final = 1000


class OtherLedger(Exception):
    """The server holds a ledger that was created otherwise: another layout or number of shards.
    Both are fixed for the life of a ledger. Set `redis.shards` to what the message names."""


class PricesChanged(Exception):
    """A price version is kept with other rows. Versions are digests of their rows, so one of the
    two was tampered with."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """An API key made by `creditgate key create`; only its hash is kept."""

    digest: str
    key_id: str
    customer_id: str
    project_id: str | None
    created_at_ms: int
    revoked_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class OpenHold:
    """A pending reservation and where it lies."""

    shard: int
    reservation_id: str
    reservation: Reservation


class RedisRunner:
    """Runs scripts through a redis-py client: tests, the command line, whatever is not hot."""

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> list[Any]:
        """See `Runner`. Whatever breaks the connection leaves the outcome unknown."""
        command = (b"EVALSHA", script.sha, len(keys), *keys, *args)
        try:
            try:
                reply: list[Any] = await self._client.execute_command(*command)
            except NoScriptError:
                await self._client.script_load(script.source)
                reply = await self._client.execute_command(*command)
        except ResponseError as error:
            raise refusal_of(error) or explain(error, script.name) from error
        except (RedisError, OSError) as error:
            raise refusal_of(error) or LedgerUnavailable(
                f"the ledger cannot be reached: {type(error).__name__}", unknown=True
            ) from error
        return reply


class AccountStore:
    """Records and directories, as values. Every method raises LedgerUnavailable."""

    def __init__(self, client: Redis, *, namespace: str = "cg", shard_count: int = 64) -> None:
        self.keys = Keys(namespace, shard_count)
        self._client: Any = client  # its stubs promise text where this client answers bytes

    # The ledger as a whole

    async def create(self) -> None:
        """Note how this ledger is created, or make sure that it was created so.

        Raises OtherLedger.
        """
        key = self.keys.common("creation")
        now_ms = await self.now_ms()
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.hsetnx(key, "layout", LAYOUT)
            pipe.hsetnx(key, "shards", self.keys.shard_count)
            pipe.hsetnx(key, "created_at_ms", now_ms)
            pipe.hmget(key, ["layout", "shards"])
            with unavailable():
                *_, (layout, shards) = await pipe.execute()
        self._compare_creation(layout, shards)

    async def check_creation(self) -> None:
        """Make sure that a ledger that exists was created so; changes nothing. Raises OtherLedger."""
        with unavailable():
            layout, shards = await self._client.hmget(
                self.keys.common("creation"), ["layout", "shards"]
            )
        if layout is not None and shards is not None:
            self._compare_creation(layout, shards)

    def _compare_creation(self, layout: bytes, shards: bytes) -> None:
        if int(layout) != LAYOUT:
            raise OtherLedger(f"the ledger has layout {int(layout)}; this release reads {LAYOUT}")
        if int(shards) != self.keys.shard_count:
            raise OtherLedger(
                f"the ledger was created with {int(shards)} shards, not {self.keys.shard_count};"
                f" set redis.shards to {int(shards)}"
            )

    async def now_ms(self) -> int:
        """The ledger's clock."""
        with unavailable():
            seconds, micros = await self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    # Wallets

    async def customers(self) -> list[str]:
        """Ids of all customers, sorted."""
        found = []
        async with self._client.pipeline(transaction=False) as pipe:
            for shard in range(self.keys.shard_count):
                pipe.smembers(self.keys.customers(shard))
            with unavailable():
                for members in await pipe.execute():
                    found += [member.decode() for member in members]
        return sorted(found)

    async def wallets(self, customer_ids: Iterable[str]) -> dict[str, Wallet]:
        """The wallets of those customers that have one."""
        found = {}
        for page in _pages(list(customer_ids)):
            keys = [self.keys.account(self.keys.shard_of(name), name) for name in page]
            records = await self._get(keys)
            found.update(
                {name: read_wallet(raw) for name, raw in zip(page, records, strict=True) if raw}
            )
        return found

    async def due_wallets(self) -> AsyncIterator[list[str]]:
        """Customers whose wallet time alone changes by now, page by page over all wallets.

        Of a record only the moment is read, and no more than a page is kept: the walk is for
        ledgers of millions. What changes meanwhile is found now or by the next walk.
        """
        now_ms = await self.now_ms()
        for shard in range(self.keys.shard_count):
            cursor: Any = None
            while cursor is None or int(cursor):
                with unavailable():
                    cursor, names = await self._client.sscan(
                        self.keys.customers(shard), cursor or 0, count=_PAGE
                    )
                    if not names:
                        continue
                    prefix = self.keys.account(shard, "")
                    records = await self._client.mget([prefix + name for name in names])
                yield [
                    name.decode()
                    for name, raw in zip(names, records, strict=True)
                    if raw and read_sweep_at_ms(raw) <= now_ms
                ]

    async def standings(self, accounts: Sequence[Account]) -> list[Standing]:
        """How the limits of these accounts stand by the ledger's clock; what several share, once."""
        now_ms = await self.now_ms()
        names = {name: None for account in accounts for name in counted_in(self.keys, account)}
        records = dict(zip(names, await self._get(list(names)), strict=True))
        return list(
            {
                standing: None
                for account in accounts
                for standing in standings_of(
                    account, [records[name] for name in counted_in(self.keys, account)], now_ms
                )
            }
        )

    async def account_rev(self, customer_id: str) -> int | None:
        """The account's present revision; None when there is no such account."""
        wallet = (await self.wallets([customer_id])).get(customer_id)
        return None if wallet is None else wallet.account_rev

    async def given_terms(
        self, operations: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], bytes]:
        """Packed terms of the grants that were given, by (customer_id, operation id)."""
        given = {}
        for start in range(0, len(operations), _PAGE):
            page = operations[start : start + _PAGE]
            async with self._client.pipeline(transaction=False) as pipe:
                for customer_id, op_id in page:
                    shard = self.keys.shard_of(customer_id)
                    pipe.hget(self.keys.ops(shard, customer_id), op_id)
                with unavailable():
                    found = await pipe.execute()
            for operation, packed in zip(page, found, strict=True):
                if packed is not None:
                    given[operation] = unpackb(packed, raw=True)[1]
        return given

    # Reservations

    async def open_holds(self, customer_id: str | None = None) -> list[OpenHold]:
        """Pending reservations, of one customer or of all, soonest deadline first."""
        only = range(self.keys.shard_count)
        shards = only if customer_id is None else [self.keys.shard_of(customer_id)]
        holds = []
        for shard in shards:
            with unavailable():
                raw = await self._client.zrange(self.keys.due(shard), 0, -1)
            for page in _pages([reservation_id.decode() for reservation_id in raw]):
                holds += [
                    OpenHold(shard, reservation_id, record)
                    for reservation_id, record in await self._reservations(shard, page)
                    if isinstance(record, Reservation) and customer_id in (None, record.customer_id)
                ]
        return sorted(holds, key=lambda hold: hold.reservation.deadline_ms)

    async def reservation(
        self, customer_id: str, reservation_id: str
    ) -> Reservation | Ended | None:
        """A reservation or its tombstone; None when the ledger has neither (any more)."""
        shard = self.keys.shard_of(customer_id)
        ((_, record),) = await self._reservations(shard, [reservation_id])
        return record

    async def due_reservations(
        self, *, limit: int = 500, skip: Container[int] = ()
    ) -> list[DueReservation]:
        """Holds whose deadline has passed by the ledger's clock, at most `limit` in all.

        skip: shards that are not looked at

        One that has no record any more names no customer; `Ledger.expire` strikes it off.
        """
        now_ms = await self.now_ms()
        async with self._client.pipeline(transaction=False) as pipe:
            shards = [shard for shard in range(self.keys.shard_count) if shard not in skip]
            for shard in shards:
                pipe.zrangebyscore(self.keys.due(shard), "-inf", now_ms, start=0, num=limit)
            with unavailable():
                by_shard = await pipe.execute()
        due: list[DueReservation] = []
        for shard, raw in zip(shards, by_shard, strict=True):
            ids = [reservation_id.decode() for reservation_id in raw[: limit - len(due)]]
            if not ids:
                continue
            for reservation_id, record in await self._reservations(shard, ids):
                if isinstance(record, Ended):
                    continue  # settled since the deadlines were read
                account = Account("", "", shard, account_rev=0)
                if record is not None:
                    account = replace(
                        account,
                        customer_id=record.customer_id,
                        key_id=record.key_id,
                        project_id=record.project_id,
                    )
                due.append(DueReservation(shard, reservation_id, account))
        return due

    # API keys

    async def add_key(
        self, digest: str, key_id: str, customer_id: str, project_id: str | None = None
    ) -> StoredKey:
        """Put a key into the directory by its hash. Raises ValueError if the hash or id is taken."""
        if any(key_id == known.key_id for known in await self.list_keys()):
            raise ValueError(f"there is a key {key_id} already")
        key = StoredKey(digest, key_id, customer_id, project_id, await self.now_ms())
        with unavailable():
            added = await self._client.hsetnx(self.keys.common("keys"), digest, _pack_key(key))
        if not added:
            raise ValueError("this key is in the directory already")
        return key

    async def list_keys(self, customer_id: str | None = None) -> list[StoredKey]:
        """Keys of one customer or of all, revoked ones too, oldest first."""
        with unavailable():
            raw = await self._client.hgetall(self.keys.common("keys"))
        keys = [_unpack_key(digest, packed) for digest, packed in raw.items()]
        wanted = [key for key in keys if customer_id in (None, key.customer_id)]
        return sorted(wanted, key=lambda key: (key.created_at_ms, key.key_id))

    async def find_key(self, digest: str) -> Key | None:
        """The key with this hash; None when unknown or revoked.

        An emptied ledger knows no key, and must not say that of its customers' keys: it raises
        LedgerUnavailable.
        """
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.hget(self.keys.common("keys"), digest)
            pipe.exists(self.keys.common("creation"))
            with unavailable():
                raw, created = await pipe.execute()
        if raw is None:
            if not created:
                raise LedgerUnavailable(
                    "the ledger is empty: its server has lost it, or is another one"
                )
            return None
        key = _unpack_key(digest.encode(), raw)
        if key.revoked_at_ms is not None:
            return None
        return Key(key.key_id, key.customer_id, key.project_id)

    async def revoke_key(
        self, wallets: Wallets, key_id: str, *, kill: bool = False
    ) -> StoredKey | None:
        """Revoke a key permanently; None when no such key exists.

        The customer's revision is raised afterwards, so every gate looks the key up again at its
        next request. Calling it again after a failure repeats both steps.
        kill: cut its running answers, too
        """
        for key in await self.list_keys():
            if key.key_id == key_id:
                if key.revoked_at_ms is None:
                    key = replace(key, revoked_at_ms=await self.now_ms())
                    with unavailable():
                        await self._client.hset(
                            self.keys.common("keys"), key.digest, _pack_key(key)
                        )
                if kill:
                    with unavailable():
                        await self._client.sadd(self.keys.common("killed"), key_id)
                await wallets.bump(key.customer_id, {"reason": "key revoked", "key_id": key_id})
                return key
        return None

    async def key_killed(self, key_id: str) -> bool:
        """Whether the running answers of this key are to be cut."""
        with unavailable():
            return bool(await self._client.sismember(self.keys.common("killed"), key_id))

    # Price book

    def price_books(self) -> PriceBooks:
        """The books of this ledger, and which one is in force."""
        return PriceBooks(self._client, namespace=self.keys.namespace)

    async def put_prices(self, tables: Iterable[PriceTable]) -> None:
        """Store each version's rows permanently. Raises PricesChanged."""
        by_version = {table.price_version: packb([table.rows, table.cost_rows]) for table in tables}
        if not by_version:
            return
        key = self.keys.common("prices")
        async with self._client.pipeline(transaction=False) as pipe:
            for version, packed in by_version.items():
                pipe.hsetnx(key, version, packed)
            pipe.hmget(key, list(by_version))
            with unavailable():
                *_, kept = await pipe.execute()
        for (version, packed), there in zip(by_version.items(), kept, strict=True):
            if there != packed:
                raise PricesChanged(f"price version {version} is kept with other rows")

    async def changed_prices(self, tables: Iterable[PriceTable]) -> list[str]:
        """Versions of these that are kept with other rows; changes nothing."""
        by_version = {table.price_version: packb([table.rows, table.cost_rows]) for table in tables}
        if not by_version:
            return []
        with unavailable():
            kept = await self._client.hmget(self.keys.common("prices"), list(by_version))
        pairs = zip(by_version.items(), kept, strict=True)
        return [version for (version, packed), there in pairs if there not in (None, packed)]

    async def prices(self, price_version: str) -> tuple[dict[str, Rate], dict[str, int]] | None:
        """Rates, and costs in pico-credits, of a version by unit; None when it is not kept."""
        with unavailable():
            raw = await self._client.hget(self.keys.common("prices"), price_version)
        if raw is None:
            return None
        rows, cost_rows = unpackb(raw)
        return unpack_rates(rows), unpack_rows(cost_rows)

    # How

    async def _get(self, keys: list[bytes]) -> list[bytes | None]:
        """GET of each. Not MGET: the keys may lie in different slots."""
        async with self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.get(key)
            with unavailable():
                values: list[bytes | None] = await pipe.execute()
        return values

    async def _reservations(
        self, shard: int, ids: Sequence[str]
    ) -> list[tuple[str, Reservation | Ended | None]]:
        records = await self._get([self.keys.reservation(shard, name) for name in ids])
        return [
            (name, read_reservation(raw) if raw else None)
            for name, raw in zip(ids, records, strict=True)
        ]


def _pages(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), _PAGE):
        yield items[start : start + _PAGE]


def _pack_key(key: StoredKey) -> bytes:
    packed: bytes = packb(
        [key.key_id, key.customer_id, key.project_id, key.created_at_ms, key.revoked_at_ms]
    )
    return packed


def _unpack_key(digest: bytes, packed: bytes) -> StoredKey:
    return StoredKey(digest.decode(), *unpackb(packed))
