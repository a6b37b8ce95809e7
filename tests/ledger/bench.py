"""A ledger with a clock of its own and one customer whose unit costs one nano-credit."""

from collections.abc import Sequence
from typing import Any

import msgpack
import redis.asyncio

from gateway.domain.limits import Limit
from gateway.domain.pricing import compile_prices
from gateway.domain.reservation import Account, Denied, Extended, Hold, Settled
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.scripts import Script
from gateway.ledger.codec.reservation_records import DueReservation, Reservation
from gateway.ledger.codec.wallet_records import Wallet
from gateway.ledger.identities import Difference, check_identities
from tests.support.loose_ledger import LooseLedger

NOON_MS = 1_767_268_800_000
"""1 January 2026, 12:00 UTC."""


class RecordingRunner(RedisRunner):
    """Remembers the last call, its reply's word, and all words."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        super().__init__(client)
        self.word = ""
        self.words: list[str] = []
        self.call: tuple[Script, list[bytes], list[bytes]]

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> list[Any]:
        self.call = (script, list(keys), list(args))
        reply = await super().run(script, keys, args)
        self.word = reply[0].decode()
        self.words.append(self.word)
        return reply

    async def again(
        self, args: dict[int, bytes], *, keys: dict[int, bytes] | None = None
    ) -> list[Any]:
        """The last call once more, with some arguments or keys changed; numbers as in Lua."""
        script, old_keys, old_args = self.call
        changed_keys = [(keys or {}).get(n, key) for n, key in enumerate(old_keys, 1)]
        changed_args = [args.get(n, arg) for n, arg in enumerate(old_args, 1)]
        return await self.run(script, changed_keys, changed_args)


class Bench:
    """`acme` and what a test does with it. Prices: input 1 nano a unit, output 2; input costs 1."""

    table = compile_prices({"input": 1000, "output": 2000}, {"input": 1000})
    facts = msgpack.packb({"customer_id": "acme", "price_version": table.price_version})

    def __init__(self, client: redis.asyncio.Redis, **options: Any) -> None:
        self.client: Any = client
        self.runner = RecordingRunner(client)
        self.now = NOON_MS
        self.ledger = LooseLedger(self.runner, shard_count=1, clock_ms=lambda: self.now, **options)
        self.store = AccountStore(client, shard_count=1)
        self.account = Account("acme", "k1", 0, 1, "team")

    async def open(self, nano: int = 1000, *limits: Limit, credit_limit: int = 0) -> "Bench":
        """Create the account, grant, and set limits."""
        await self.ledger.account("acme", account_rev=1, credit_limit_nano=credit_limit)
        if nano:
            await self.ledger.grant("acme", "g1", nano)
        self.account = Account("acme", "k1", 0, 1, "team", limits=limits)
        return self

    def vector(self, units: int, output: int = 0) -> bytes:
        return self.table.vector({"input": units, "output": output})

    async def reserve(
        self, rid: str = "r1", units: int = 100, *, floor: int = 0, **options: Any
    ) -> Hold | Denied:
        return await self.ledger.reserve(
            options.pop("account", self.account),
            rid,
            options.pop("table", self.table),
            self.vector(units),
            self.vector(floor),
            self.facts,
            **{"tokens": units, "ttl_ms": 60_000, **options},
        )

    async def held(self, rid: str = "r1", units: int = 100, **options: Any) -> Hold:
        hold = await self.reserve(rid, units, **options)
        assert isinstance(hold, Hold), hold
        return hold

    async def denied(self, rid: str = "r1", units: int = 100, **options: Any) -> Denied:
        before = await self.dump()
        denied = await self.reserve(rid, units, **options)
        assert isinstance(denied, Denied), denied
        assert await self.dump() == before, "a refusal wrote something"
        return denied

    async def settle(self, rid: str = "r1", units: int = 40, **options: Any) -> Settled:
        return await self.ledger.settle(
            options.pop("account", self.account),
            rid,
            options.pop("table", self.table),
            self.vector(units),
            self.facts,
            **{"tokens": units, "reserved_at_ms": self.now, **options},
        )

    async def release(self, rid: str = "r1", **options: Any) -> Settled:
        return await self.ledger.release(
            options.pop("account", self.account),
            rid,
            self.facts,
            **{"reserved_at_ms": self.now, **options},
        )

    async def extend(
        self, rid: str = "r1", units: int = 150, *, number: int = 1, used: int = 0, **options: Any
    ) -> Extended | Settled | None:
        return await self.ledger.extend(
            options.pop("account", self.account),
            rid,
            extend_no=number,
            estimate=self.vector(units),
            checkpoint=self.vector(used),
            **{"tokens": units, "ttl_ms": 60_000, **options},
        )

    async def expire(self, rid: str = "r1") -> Settled | None:
        return await self.ledger.expire(DueReservation(0, rid, self.account))

    async def wallet(self) -> Wallet:
        return (await self.store.wallets.read(["acme"]))["acme"]

    async def reservation(self, rid: str = "r1") -> Reservation:
        record = await self.store.holds.reservation("acme", rid)
        assert isinstance(record, Reservation)
        return record

    async def stamps(self) -> list[list[Any]]:
        """Stamps of the outbox: kind, id, at, amount, held, cost, balance, allocations, usage."""
        entries = await self.client.xrange("{cg:0}:out")
        return [msgpack.unpackb(fields[b"s"]) for _, fields in entries]

    async def differences(self) -> list[Difference]:
        return await check_identities(self.store, self.client)

    async def dump(self) -> dict[bytes, bytes]:
        """Every key's value, serialised. Of a hash that is being rehashed DUMP changes with each
        look, so its fields are put into order."""
        keys = [key async for key in self.client.scan_iter()]
        return {
            key: msgpack.packb(sorted((await self.client.hgetall(key)).items()))
            if await self.client.type(key) == b"hash"
            else await self.client.dump(key)
            for key in sorted(keys)
        }
