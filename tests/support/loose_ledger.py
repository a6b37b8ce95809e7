"""All verbs of the ledger behind one object, with loose arguments, for tests that care about the scripts.

`LooseLedger` packs an `Account` when it meets it and keeps the packed form, as the gate's account
cache does.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.domain.reservation import (
    Account,
    Affordable,
    Denied,
    Extended,
    Hold,
    IdempotencyKey,
    Quote,
    Settled,
)
from gateway.ledger.client.scripts import Runner
from gateway.ledger.codec.calls import (
    AffordCall,
    ExtendCall,
    Prices,
    QuoteCall,
    ReleaseCall,
    ReserveCall,
    SettleCall,
)
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.operations import (
    AccountTerms,
    Adjustment,
    GrantTerms,
    NewAllowance,
    NewGrant,
    Refund,
)
from gateway.ledger.codec.packed_account import PackedAccount
from gateway.ledger.corrections import Corrections, Refunded
from gateway.ledger.notes import Notes
from gateway.ledger.outbox_watermark import OutboxWatermark
from gateway.ledger.repair import Repair
from gateway.ledger.reservations import Reservations
from gateway.ledger.shards import Shards
from gateway.ledger.wallets import AccountState, Adjusted, Granted, Voided, Wallets

Facts = Mapping[str, Any] | None


class LooseLedger:
    """Reservations, wallets, corrections and repair over one runner."""

    def __init__(
        self,
        runner: Runner,
        *,
        shard_count: int = 64,
        max_backlog: int = 0,
        seen: OutboxWatermark | None = None,
        clock_ms: Callable[[], int] | None = None,
    ) -> None:
        self.shards = shards = Shards(
            runner, Keys("cg", shard_count), watermark=seen, clock_ms=clock_ms
        )
        self.reservations = Reservations(shards, max_backlog=max_backlog)
        self.wallets = wallets = Wallets(shards)
        self.corrections = Corrections(shards)
        self.repair = Repair(shards)
        self.note = Notes(shards).note
        self.keys, self.seen = shards.keys, shards.watermark
        self.ack, self.freeze = shards.ack, shards.freeze
        self.bump, self.signals, self.sweep = wallets.bump, wallets.signals, wallets.sweep
        self.expire, self.rate = self.reservations.expire, self.reservations.rate
        self._packed: dict[int, PackedAccount] = {}

    def pack(self, account: Account) -> PackedAccount:
        """The packed form of this very object; it keeps the account alive, so its id stays unique."""
        packed = self._packed.get(id(account))
        if packed is None:
            packed = self._packed[id(account)] = self.shards.pack(account)
        return packed

    async def reserve(
        self,
        account: Account,
        reservation_id: str,
        prices: Prices,
        estimate: bytes,
        checkpoint: bytes,
        facts: bytes,
        *,
        tokens: int,
        ttl_ms: int,
        scope_bits: int = 0,
        model: str | None = None,
        idempotency: IdempotencyKey | None = None,
    ) -> Hold | Denied:
        call = ReserveCall(
            reservation_id, prices, estimate, checkpoint, facts, tokens, ttl_ms, scope_bits,
            model, idempotency,
        )  # fmt: skip
        return await self.reservations.reserve(self.pack(account), call)

    async def extend(
        self,
        account: Account,
        reservation_id: str,
        *,
        extend_no: int,
        estimate: bytes,
        checkpoint: bytes,
        tokens: int,
        ttl_ms: int,
    ) -> Extended | Settled | None:
        call = ExtendCall(reservation_id, extend_no, estimate, checkpoint, tokens, ttl_ms)
        return await self.reservations.extend(self.pack(account), call)

    async def settle(
        self,
        account: Account,
        reservation_id: str,
        prices: Prices,
        used: bytes,
        facts: bytes,
        *,
        tokens: int,
        reserved_at_ms: int,
        scope_bits: int = 0,
    ) -> Settled:
        call = SettleCall(reservation_id, prices, used, facts, tokens, reserved_at_ms, scope_bits)
        return await self.reservations.settle(self.pack(account), call)

    async def release(
        self,
        account: Account,
        reservation_id: str,
        facts: bytes,
        *,
        reserved_at_ms: int,
        idempotency: str = "",
    ) -> Settled:
        call = ReleaseCall(reservation_id, facts, reserved_at_ms, idempotency)
        return await self.reservations.release(self.pack(account), call)

    async def quote(self, account: Account, prices: Prices, estimate: bytes, **more: Any) -> Quote:
        return await self.reservations.quote(
            self.pack(account), QuoteCall(prices, estimate, **more)
        )

    async def afford(
        self, account: Account, prices: Prices, least: bytes, step: bytes, steps: int, **more: Any
    ) -> Affordable:
        call = AffordCall(prices, least, step, steps, **more)
        return await self.reservations.afford(self.pack(account), call)

    async def account(
        self,
        customer_id: str,
        *,
        frozen: bool = False,
        killed: bool = False,
        facts: Facts = None,
        **terms: Any,
    ) -> AccountState:
        status: Any = "killed" if killed else "frozen" if frozen else "active"
        return await self.wallets.account(customer_id, AccountTerms(status=status, **terms), facts)

    async def grant(
        self, customer_id: str, op_id: str, amount_nano: int, *, facts: Facts = None, **terms: Any
    ) -> Granted:
        return await self.wallets.grant(customer_id, op_id, NewGrant(amount_nano, **terms), facts)

    async def adjust(
        self, customer_id: str, op_id: str, amount_nano: int, *, facts: Facts = None, **said: Any
    ) -> Adjusted:
        return await self.wallets.adjust(customer_id, op_id, Adjustment(amount_nano, **said), facts)

    async def void(
        self, customer_id: str, op_id: str, grant_no: int, *, reason: str, facts: Facts = None
    ) -> Voided:
        return await self.wallets.void(customer_id, op_id, grant_no, reason, facts)

    async def allowance(
        self, customer_id: str, name: str, amount_nano: int, *, facts: Facts = None, **terms: Any
    ) -> bool:
        return await self.wallets.allowance(
            customer_id, NewAllowance(name, amount_nano, **terms), facts
        )

    async def refund(
        self,
        customer_id: str,
        op_id: str,
        event_id: str,
        amount_nano: int,
        *,
        charged_nano: int,
        allocations: Sequence[tuple[int, int]],
        reason: str,
        terms: Mapping[int, GrantTerms] | None = None,
        facts: Facts = None,
    ) -> Refunded:
        refund = Refund(event_id, amount_nano, charged_nano, reason, allocations, terms or {})
        return await self.corrections.refund(customer_id, op_id, refund, facts)
