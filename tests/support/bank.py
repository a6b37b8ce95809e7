"""A small ledger with customers, worked by the real scripts, for tests of what looks at it."""

from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
from msgpack import packb

from gateway.domain.pricing import PriceTable, compile_prices
from gateway.domain.reservation import Account, Hold, Settled, shard_of
from gateway.ledger.accounts import AccountStore
from gateway.ledger.audit import Audit
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.codec.reservation_records import DueReservation
from gateway.ledger.outbox import Outbox
from tests.support.loose_ledger import LooseLedger

CREDIT = 1_000_000_000


@dataclass
class Bank:
    """Everything over one client. Prices: 2 nano-credits an input token, 5 and a half an output token."""

    client: redis.asyncio.Redis
    shards: int = 4
    prices: PriceTable = field(
        default_factory=lambda: compile_prices({"input": 2000, "output": 5500}, {"output": 1000})
    )
    now_ms: int = 0
    """The ledger's clock if not 0."""

    def __post_init__(self) -> None:
        runner = RedisRunner(self.client)
        names: dict[str, Any] = {"shard_count": self.shards}
        clock: Any = lambda: self.now_ms  # noqa: E731 - read at each call
        self.ledger = LooseLedger(runner, clock_ms=clock, **names)
        self.operator = self.ledger
        self.accounts = AccountStore(self.client, **names)
        self.audit = Audit(self.client, self.accounts.names)
        self.outbox = Outbox(self.client, self.shards)
        self._known: dict[str, Account] = {}

    async def open(self, customer_id: str, granted: int = 10) -> Account:
        """A customer with a paid grant called "purchase"."""
        await self.accounts.prices.put([self.prices])
        await self.operator.account(customer_id, account_rev=1)
        if granted:
            await self.operator.grant(
                customer_id, f"buy-{customer_id}", granted * CREDIT, facts={"name": "purchase"}
            )
        account = Account(customer_id, "k1", shard_of(customer_id, self.shards), 1)
        self._known[customer_id] = account
        return account

    async def reserve(
        self, customer_id: str, request_id: str, *, output: int = 1000, ttl_ms: int = 60_000
    ) -> Hold:
        """Hold 10 input tokens and `output`."""
        hold = await self.ledger.reserve(
            self._known[customer_id],
            request_id,
            self.prices,
            self.prices.vector({"input": 10, "output": output}),
            self.prices.vector({"input": 10}),
            self.facts(customer_id, request_id),
            tokens=10 + output,
            ttl_ms=ttl_ms,
        )
        assert isinstance(hold, Hold), hold
        return hold

    async def settle(self, customer_id: str, hold: Hold, *, output: int = 7) -> Settled:
        """Charge 10 input tokens and `output`."""
        return await self.ledger.settle(
            self._known[customer_id],
            hold.reservation_id,
            self.prices,
            self.prices.vector({"input": 10, "output": output}),
            self.facts(customer_id, hold.reservation_id, http_status=200, finish_reason="stop"),
            tokens=10 + output,
            reserved_at_ms=hold.reserved_at_ms,
        )

    async def release(self, customer_id: str, hold: Hold) -> Settled:
        """Give a hold back."""
        facts = self.facts(customer_id, hold.reservation_id, http_status=500)
        return await self.ledger.release(
            self._known[customer_id],
            hold.reservation_id,
            facts,
            reserved_at_ms=hold.reserved_at_ms,
        )

    async def expire(self, customer_id: str, hold: Hold) -> Settled:
        """What the sweeper does to a hold, at its deadline."""
        self.now_ms = hold.deadline_ms
        due = DueReservation(
            self._known[customer_id].shard, hold.reservation_id, self._known[customer_id]
        )
        expired = await self.ledger.expire(due)
        self.now_ms = 0
        assert expired is not None
        return expired

    async def spend(self, customer_id: str, request_id: str, *, output: int = 7) -> Settled:
        """A whole request."""
        return await self.settle(
            customer_id, await self.reserve(customer_id, request_id), output=output
        )

    def facts(self, customer_id: str, request_id: str, **more: object) -> bytes:
        """What the gate says of a request."""
        known = {
            "request_id": request_id,
            "customer_id": customer_id,
            "key_id": "k1",
            "route": "/v1/chat/completions",
            "model": "m",
            "upstream": "sim",
            "price_version": self.prices.price_version,
            "usage_source": "provider_reported",
            "flags": [],
        }
        packed: bytes = packb({**known, **more})
        return packed
