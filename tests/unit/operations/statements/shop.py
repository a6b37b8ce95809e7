"""A shop of ten customers that buy, use, get back and let expire, by the real scripts and a set clock.

Everything random comes from one seed. Events go to a SQLite store through the real exporter.
"""

import datetime as dt
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis.asyncio
import yaml
from msgpack import packb

from gateway.app.backend import open_backend
from gateway.domain.pricing import PriceTable
from gateway.domain.reservation import Account, Hold, shard_of
from gateway.domain.usage import Usage
from gateway.exporter.main import Exporter
from gateway.ledger.audit import Audit
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.reservation_records import DueReservation
from gateway.ledger.outbox import Outbox
from gateway.operations.backend import Backend
from gateway.settings import Settings, load_settings
from tests.support.gate import SHARDS, gate_config
from tests.support.loose_ledger import LooseLedger
from tests.support.stores import events_path, sqlite_access, sqlite_sink

CREDIT = 1_000_000_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
CUSTOMERS = [f"c{number}" for number in range(10)]
BILLING_DAYS = {name: 15 if number % 3 == 0 else 1 for number, name in enumerate(CUSTOMERS)}

PRICES: dict[str, Any] = {
    "plain": {"input": "0.3333", "cache_read": "0.0777", "output": "8.00"},
    "request": {"input": "0", "output": "0", "per_request": "0.013"},
    "flat": {"input": {"shape": "flat", "flat": "0.50"}, "output": "0"},
    "graduated": {
        "input": {
            "shape": "graduated", "included": 5000,
            "tiers": [{"up_to": 2000, "price": "10.0777"}, {"price": "4.00", "flat": "0.05"}],
        },
        "output": {"price": "3.0003", "included": 2000},
    },
    "volume": {
        "input": {
            "shape": "volume",
            "tiers": [{"up_to": 4000, "price": "10.00"}, {"price": "4.0001", "flat": "0.0007"}],
        },
        "output": "1.00",
    },
    "package": {"input": {"shape": "package", "package": 1000, "price": "0.01"}, "output": "0"},
    "minimums": {
        "input": {"price": "2.00", "included": 1000, "minimum_per_period": "0.02"},
        "output": {"price": "7.00", "minimum_per_request": "0.001"},
    },
    "daily": {"input": {"price": "3.0001", "included": 500, "period": "day"}, "output": "1.00"},
}  # fmt: skip
"""Prices of the first weeks."""
CHANGED = {"plain": {"input": "0.2221", "cache_read": "0.0333", "output": "9.00"}}
"""What replaces them on 20 September."""
CHANGE_MS = int(dt.datetime(2025, 9, 20, tzinfo=dt.UTC).timestamp()) * 1000


def at(month: int, day: int, hour: int = 0, year: int = 2025) -> int:
    """Unix ms."""
    return int(dt.datetime(year, month, day, hour, tzinfo=dt.UTC).timestamp()) * 1000


def shop_config(folder: Path, socket: Path, prices: dict[str, Any]) -> Settings:
    """A configuration with these prices; its customers are the shop's."""
    models = {
        name: {"upstream": "sim", "max_output_tokens": 4096, "prices": own}
        for name, own in prices.items()
    }
    config = gate_config(
        "http://127.0.0.1:9",
        folder / "data",
        f"unix://{socket}",
        models=models,
        plans={"pro": {"fee": "49.00", "fee_unit": "USD"}},
        customers={name: {"plan": "pro", "billing_day": BILLING_DAYS[name]} for name in CUSTOMERS},
    )
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(config))
    return load_settings(file)


class Shop:
    """The ledger by a clock of its own, the exporter, and what has been done so far."""

    def __init__(self, client: redis.asyncio.Redis, folder: Path, socket: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = at(8, 31, 12)
        runner = RedisRunner(client)
        self.ledger = LooseLedger(runner, shard_count=SHARDS, clock_ms=lambda: self.now)
        self.outbox = Outbox(client, SHARDS)
        self.audit = Audit(client, Keys("cg", SHARDS))
        changed = shop_config(folder, socket, {**PRICES, **CHANGED})
        self.settings = shop_config(folder, socket, PRICES)
        self.old, self.new = self.settings.price_draft(), changed.price_draft()
        self.tables: dict[str, PriceTable] = {**self.old.tables(), **self.new.tables()}
        self.accounts = {name: Account(name, "k1", shard_of(name, SHARDS), 1) for name in CUSTOMERS}
        self.grants: dict[str, list[int]] = {name: [] for name in CUSTOMERS}
        self.charged: list[str] = []
        self.number = 0
        self.tier: str | None = None
        """The service tier that events name."""

    @asynccontextmanager
    async def backend(self) -> AsyncIterator[Backend]:
        """What operations work on."""
        async with open_backend(self.settings) as backend:
            yield backend

    async def open(self) -> None:
        """Prices, accounts, first grants, and allowances for some."""
        async with self.backend() as backend:
            await backend.accounts.books.take(self.old)
            await backend.accounts.books.apply(self.new)
        for number, name in enumerate(CUSTOMERS):
            await self.ledger.account(
                name,
                account_rev=1,
                credit_limit_nano=CREDIT // 10 if number % 4 == 0 else 0,
                billing_day=BILLING_DAYS[name],
            )
            await self.grant(name, CREDIT // 2, category="paid", priority=100)
            if number % 2:
                await self.ledger.allowance(
                    name, "monthly", CREDIT // 5, rollover_max_nano=CREDIT // 50, priority=50
                )

    async def export(self) -> None:
        """Everything that waits, into the store."""
        exporter = Exporter(self.outbox, self.ledger, sqlite_sink(events_path(self.settings)))
        exporter.begin()
        await exporter.drain(10)

    # What happens

    async def grant(self, customer: str, amount: int, **terms: Any) -> None:
        self.number += 1
        op_id = f"grant:{customer}:{self.number}"
        facts = {"name": f"purchase {self.number}"}
        made = await self.ledger.grant(customer, op_id, amount, facts=facts, **terms)
        self.grants[customer].append(made.grant_no)

    def price(self, model: str) -> PriceTable:
        """The price in force."""
        draft = self.old if self.now < CHANGE_MS else self.new
        return self.tables[draft.book.models[model]]

    def facts(self, customer: str, rid: str, model: str, table: PriceTable) -> bytes:
        packed: bytes = packb(
            {
                "request_id": rid, "customer_id": customer, "project_id": None, "key_id": "k1",
                "route": "chat", "model": model, "upstream": "sim",
                "price_version": table.price_version, "livemode": True, "flags": [],
                **({"service_tier": self.tier} if self.tier else {}),
            }
        )  # fmt: skip
        return packed

    def usage(self, table: PriceTable) -> dict[str, int]:
        """Some of every unit that is priced."""
        draw = self.random.randrange
        usage = {"input": draw(1, 1500), "output": draw(400)}
        if "cache_read" in table.units:
            usage["cache_read"] = draw(300)
        if "request" in table.units:
            usage["request"] = 1
        return usage

    async def reserve(self, customer: str, model: str, *, ttl_ms: int = MINUTE_MS) -> Any:
        """A hold for 1,500 input and 400 output tokens, as (customer, model, table, hold); None if refused."""
        rid = f"{self.now:012x}{self.random.getrandbits(80):020x}"
        table = self.price(model)
        most = {"input": 1500, "output": 400, "request": 1}
        seen = {unit: quantity // 3 for unit, quantity in self.usage(table).items()}
        hold = await self.ledger.reserve(
            self.accounts[customer],
            rid,
            table,
            table.vector(most),
            table.vector({**seen, "request": 1}),
            self.facts(customer, rid, model, table),
            tokens=1900,
            ttl_ms=ttl_ms,
        )
        return (customer, model, table, hold) if isinstance(hold, Hold) else None

    async def settle(self, held: Any, usage: Usage | None = None) -> None:
        customer, model, table, hold = held
        settled = await self.ledger.settle(
            self.accounts[customer],
            hold.reservation_id,
            table,
            table.vector(self.usage(table) if usage is None else usage),
            self.facts(customer, hold.reservation_id, model, table),
            tokens=10,
            reserved_at_ms=hold.reserved_at_ms,
        )
        self.charged.append(settled.event_id)

    async def expire(self, held: Any) -> None:
        customer, _, _, hold = held
        account = self.accounts[customer]
        await self.ledger.expire(DueReservation(account.shard, hold.reservation_id, account))

    async def release(self, held: Any) -> None:
        customer, model, table, hold = held
        await self.ledger.release(
            self.accounts[customer],
            hold.reservation_id,
            self.facts(customer, hold.reservation_id, model, table),
            reserved_at_ms=hold.reserved_at_ms,
        )

    async def refund(self, event_id: str, part: int) -> None:
        """An event's charge, divided by `part`."""
        await self.export()
        with sqlite_access(events_path(self.settings)).open() as store:
            stored = store.event(event_id)
        if stored is None or stored.event.amount_nano < 2:
            return
        event = stored.event
        self.number += 1
        await self.ledger.refund(
            event.customer_id,
            f"refund:{event.event_id}:{self.number}",
            event.event_id,
            event.amount_nano // part,
            charged_nano=event.amount_nano,
            allocations=event.allocations,
            reason="complaint",
            terms=await self.audit.grant_terms(event.customer_id),
        )

    # Time

    async def pass_to(self, end: int, *, between: int = 40 * MINUTE_MS) -> None:
        """Live until then."""
        while True:
            self.now += self.random.randrange(1, 2 * between)
            if self.now >= end:
                self.now = end
                return
            await self.something()

    async def something(self) -> None:
        """One thing that happens, to one customer."""
        customer, draw = self.random.choice(CUSTOMERS), self.random.random()
        if draw < 0.86:
            held = await self.reserve(customer, self.random.choice(list(PRICES)))
            if held is None:
                await self.grant(customer, CREDIT // 10)
                return
            how, start = self.random.random(), self.now
            if how < 0.8:
                self.now += self.random.randrange(50_000)
                await self.settle(held)
            elif how < 0.9:
                self.now = held[3].deadline_ms
                await self.expire(held)
                if how < 0.86:
                    self.now += self.random.randrange(30 * MINUTE_MS)
                    await self.settle(held)
            else:
                self.now += 1000
                await self.release(held)
            assert self.now >= start
        elif draw < 0.90:
            days = self.random.choice([1, 3, 9])
            await self.grant(
                customer,
                self.random.randrange(1, CREDIT // 10),
                category="promotional",
                priority=10,
                expires_at_ms=self.now + days * DAY_MS,
            )
        elif draw < 0.92:
            starts = self.now + self.random.randrange(DAY_MS, 12 * DAY_MS)
            await self.grant(customer, CREDIT // 100, effective_at_ms=starts)
        elif draw < 0.94:
            self.number += 1
            amount = self.random.choice([-1, 1]) * self.random.randrange(1, CREDIT // 50)
            op_id = f"adjust:{customer}:{self.number}"
            await self.ledger.adjust(customer, op_id, amount, reason="correction")
        elif draw < 0.95:
            await self.void(customer)
        elif draw < 0.98:
            await self.ledger.sweep(customer)
        elif self.charged:
            await self.refund(self.random.choice(self.charged), self.random.choice([2, 3]))

    async def void(self, customer: str) -> None:
        wallet = (await self.audit.snapshot(self.accounts[customer].shard)).wallets[customer]
        ends = [g for g in wallet.grants if g.remaining_nano > g.held_nano]
        free = [g.no for g in ends if not 0 < g.expires_at_ms <= self.now]
        if free:
            self.number += 1
            no = self.random.choice(free)
            await self.ledger.void(customer, f"void:{self.number}", no, reason="fraud")

    async def cross(self, boundary: int) -> None:
        """Every customer has a request that ends after the boundary, one that expires before it and is
        settled after it, and one that is held across it on a grant that expires with it."""
        self.now = boundary - 5 * MINUTE_MS
        for customer in CUSTOMERS:
            await self.grant(customer, CREDIT // 50, priority=1, expires_at_ms=boundary)
            await self.grant(customer, CREDIT // 5)
        late = [await self.reserve(name, "graduated") for name in CUSTOMERS]
        late += [await self.reserve(name, "plain") for name in CUSTOMERS]
        self.now += 2 * MINUTE_MS
        for held in late:
            await self.expire(held)
        running = [
            await self.reserve(name, model, ttl_ms=20 * MINUTE_MS)
            for name in CUSTOMERS
            for model in ("graduated", "volume", "minimums", "daily", "plain")
        ]
        self.now = boundary + MINUTE_MS
        for held in (*running, *late):
            self.now += 100
            await self.settle(held)
