"""Admits requests: reserves the estimate in the ledger, or says why not.

At the end of the credit the estimate is lowered to what the wallet affords, where the policy allows
that; an account that has changed in the ledger is read again; each at most once per request.
"""

import time
from asyncio import CancelledError

from gateway.domain.pricing import compile_prices
from gateway.domain.reservation import (
    Account,
    Denied,
    DenyReason,
    Hold,
    IdempotencyKey,
    Quote,
    Repeated,
)
from gateway.flow.context import RequestContext
from gateway.flow.denials import refused_by_ledger
from gateway.flow.last_credit import lower_estimate
from gateway.flow.rate_fields import rate_fields
from gateway.flow.reservation.delivery import Delivery
from gateway.flow.shard_outages import ShardOutages
from gateway.http.interface import encode_fields
from gateway.ledger.client.errors import LedgerBug, LedgerUnavailable
from gateway.ledger.codec.calls import QuoteCall, ReserveCall
from gateway.ledger.reservations import Reservations

_SHUT = frozenset({"went_back", "shard_frozen"})
"""Reasons of a shard that admits nothing."""
NOTHING = compile_prices({})
"""A price without rows: what a quote of nothing is rated at."""


class StaleAccount(Exception):
    """The ledger has another revision of the account: authenticate again, then reserve again."""


class RepeatedRequest(Exception):
    """A request with the same Idempotency-Key runs, or has run."""

    def __init__(self, repeated: Repeated) -> None:
        super().__init__(repeated.reservation_id)
        self.repeated = repeated


class Admission:
    """Reserves credit for requests. One for each worker."""

    def __init__(self, ledger: Reservations, delivery: Delivery, outages: ShardOutages) -> None:
        self._ledger = ledger
        self._delivery = delivery
        self._outages = outages

    async def check_credit(self, context: RequestContext) -> None:
        """Refuse a client without credit before its large body is read. Raises Refused.

        RFC 9110, 10.1.1: a client that sends `Expect: 100-continue` wants to know that early.
        """
        account = context.account
        assert account is not None
        quote = await self._quote(account)
        reason = quote.decision
        if reason == "allow":
            if quote.available_nano > 0 or context.route.free:
                return
            reason = "insufficient_credits"
        if reason == "stale_account" or reason == "stale_windows":
            return  # read again when the request reserves
        context.denied = _denied(quote, reason)
        raise refused_by_ledger(
            context.denied, insufficient_status=context.route.policy.insufficient_status
        )

    async def check_limits(self, context: RequestContext) -> None:
        """Refuse a request that the gate answers itself when its key has reached a limit on requests.

        Such a request is not counted itself: it reads what the ledger knows, and costs nothing.
        Raises Refused, LedgerUnavailable.
        """
        account = context.account
        assert account is not None
        if account.limits:
            quote = await self._quote(account)
            if quote.decision in ("rate_limit", "concurrency_limit"):
                context.denied = _denied(quote, quote.decision)
                raise refused_by_ledger(context.denied, insufficient_status=402)

    async def _quote(self, account: Account) -> Quote:
        packed = self._ledger.shards.pack(account)
        return await self._ledger.quote(packed, QuoteCall(NOTHING, b"", 0))

    async def reserve(self, context: RequestContext, key: IdempotencyKey | None) -> Hold:
        """Hold the estimate, or the remaining credit where that is less and the policy allows it.

        key: of a request that its client has named
        Raises Refused; RepeatedRequest; StaleAccount; LedgerUnavailable after making sure that
        nothing stays held.
        """
        lowered, plan, ledger = False, context.plan, self._ledger
        while True:
            call = _call_of(context, key)
            try:
                answer = await ledger.reserve(plan.packed or plan.pack(ledger.shards), call)
            except (LedgerUnavailable, LedgerBug, CancelledError) as error:
                if isinstance(error, LedgerUnavailable):
                    self._outages.refused(plan.account.shard, error)
                if not isinstance(error, LedgerUnavailable) or error.unknown:
                    self._delivery.abandon(plan.account, context.request_id, call.facts, key)
                raise
            if isinstance(answer, Hold):
                context.held_nano = answer.held_nano
                if plan.account.limits:
                    self._show_rates(context, answer.reserved_at_ms)
                return answer
            if answer.repeats is not None:
                raise RepeatedRequest(answer.repeats)
            if answer.reason == "insufficient_credits" and not lowered:
                lowered = True
                less = await lower_estimate(self._ledger, context, answer)
                if not isinstance(less, Denied):
                    context.estimate = less
                    continue
                answer = less
            context.denied = answer
            if answer.reason == "stale_account":
                raise StaleAccount
            if answer.reason in _SHUT:
                self._outages.refused(plan.account.shard)
            self._show_rates(context, time.time_ns() // 1_000_000, answer)
            raise refused_by_ledger(
                answer, insufficient_status=context.route.policy.insufficient_status
            )

    @staticmethod
    def _show_rates(context: RequestContext, now_ms: int, denied: Denied | None = None) -> None:
        account = context.plan.account
        if account.limits:
            fields = rate_fields(account, context.plan.model.name, now_ms, denied)
            context.exchange.also += encode_fields(fields)


def _call_of(context: RequestContext, key: IdempotencyKey | None) -> ReserveCall:
    plan, estimate = context.plan, context.estimate
    model, policy = plan.model, plan.policy
    held, checkpoint = estimate.reserve_vectors(model, policy)
    return ReserveCall(
        context.request_id,
        model.prices,
        held,
        checkpoint,
        plan.facts_packer.pack_admitted(context.event),
        estimate.tokens,
        policy.hold_ttl_ms,
        model.scope_bits,
        model.name,
        key,
    )


def _denied(quote: Quote, reason: DenyReason) -> Denied:
    return Denied(reason, 0, quote.available_nano, quote.balance_nano)
