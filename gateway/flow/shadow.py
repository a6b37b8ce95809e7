"""Admits requests in shadow mode: decides as for `enforce`, on the shadow wallet, and lets each run.

A request that would be refused is noted as such, and runs under a hold of 0: its settlement charges
what it used, into overdraft if need be, so that the charges of a shadow wallet are complete. Nothing
here refuses: whatever goes wrong, the request runs.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import structlog

from gateway.domain.reservation import Account, Hold
from gateway.flow.admission import Admission, StaleAccount
from gateway.flow.context import RequestContext
from gateway.flow.plan import ShadowPlan
from gateway.flow.refusals import INTERNAL, Refused, as_refused
from gateway.flow.shadow_hold import ShadowHold
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.calls import ReserveCall
from gateway.ledger.reservations import Reservations
from gateway.telemetry.logs import failure

log = structlog.get_logger("gate")

MOST_OPENED: Final = 100_000
_AT_MOST_STALE: Final = 3
"""How often one request rereads an account that changes under it."""

Open = Callable[[str, str], Awaitable[int]]
"""Opens the shadow wallet of an account for a switch, once; returns its revision."""


class ShadowAdmission:
    """Reserves on shadow wallets. One for each worker."""

    def __init__(
        self,
        ledger: Reservations,
        admission: Admission,
        open_wallet: Open,
        would_deny: Callable[[RequestContext, Refused], None],
    ) -> None:
        """would_deny: notes that a request would have been refused"""
        self._ledger = ledger
        self._admission = admission
        self._open = open_wallet
        self._would_deny = would_deny
        self._revisions: dict[tuple[str, str], int] = {}
        """By shadow account and switch."""

    async def reserve(self, context: RequestContext) -> ShadowHold:
        """Hold the estimate, or say what would have refused it and hold nothing. Raises only
        CancelledError."""
        plan = context.plan
        assert isinstance(plan, ShadowPlan)
        shown = context.exchange.also
        try:
            return await self._decide(context, plan)
        except LedgerUnavailable as unavailable:
            # A reserve whose outcome is unknown is released by its id, which then cannot be charged.
            self._note(context, as_refused(unavailable))
            return _unheld(context, charges=plan.opened and not unavailable.unknown)
        except Exception as fault:
            log.error("shadow_failed", request_id=context.request_id, **failure(fault))
            self._note(context, INTERNAL)
            return _unheld(context, charges=False)
        finally:
            context.exchange.also = shown  # what the limits say is not for the client

    async def _decide(self, context: RequestContext, plan: ShadowPlan) -> ShadowHold:
        estimate, objection = context.estimate, context.objection or plan.objection
        if not plan.opened:
            await self._enter(plan)
        if objection is None:
            try:
                hold = await self._reserve(context, plan)
            except Refused as refused:
                objection = refused
            else:
                if context.estimate.lowered is not None:  # the upstream is asked for all of it
                    output = estimate.output
                    context.estimate = replace(context.estimate, output=output, lowered=None)
                return ShadowHold(hold)
        context.estimate = estimate
        self._note(context, objection)
        return await self._hold_nothing(context, plan)

    async def _reserve(self, context: RequestContext, plan: ShadowPlan) -> Hold:
        """As for `enforce`. Raises Refused, LedgerUnavailable."""
        for _ in range(_AT_MOST_STALE):
            try:
                return await self._admission.reserve(context, None)
            except StaleAccount:
                assert context.denied is not None
                await self._reread(context.denied.account_rev, plan)
        return await self._admission.reserve(context, None)

    async def _hold_nothing(self, context: RequestContext, plan: ShadowPlan) -> ShadowHold:
        """A hold of 0 that no limit counts: should this gate die, its expiry charges what was seen."""
        model = plan.model
        nothing = bytes(len(model.prices.vector({})))
        account = plan.without_limits(self._ledger.shards)
        call = ReserveCall(
            context.request_id,
            model.prices,
            nothing,
            nothing,
            plan.facts_packer.pack_admitted(context.event),
            0,
            plan.policy.hold_ttl_ms,
            model.scope_bits,
            model.name,
        )
        answer = await self._ledger.reserve(account, call)
        return ShadowHold(answer) if isinstance(answer, Hold) else _unheld(context, charges=True)

    async def _enter(self, plan: ShadowPlan) -> None:
        """Learn the shadow account's revision; open its wallet at the first request after a switch."""
        name = (plan.account.customer_id, plan.switch)
        revision = self._revisions.get(name)
        if revision is None:
            revision = await self._open(plan.live.customer_id, plan.switch)
            if len(self._revisions) >= MOST_OPENED:
                self._revisions.clear()
            self._revisions[name] = revision
        self._take(plan, revision)

    async def _reread(self, revision: int | None, plan: ShadowPlan) -> None:
        if revision is None:
            revision = await self._open(plan.live.customer_id, plan.switch)
        self._revisions[plan.account.customer_id, plan.switch] = revision
        self._take(plan, revision)

    def _take(self, plan: ShadowPlan, revision: int) -> None:
        plan.enter(shadow_account(plan.account, self._ledger, revision))

    def _note(self, context: RequestContext, refused: Refused) -> None:
        # Without its traceback: together they would stay until cycles are looked for.
        context.objection = refused.with_traceback(None)
        self._would_deny(context, refused)


def shadow_account(account: Account, ledger: Reservations, revision: int) -> Account:
    """The account at this revision, in the shard of its id."""
    shard = ledger.shards.keys.shard_of(account.customer_id)
    return replace(account, shard=shard, account_rev=revision)


def _unheld(context: RequestContext, *, charges: bool) -> ShadowHold:
    """Nothing is held. The settlement says when the request began, by this machine's clock."""
    now_ms = time.time_ns() // 1_000_000
    return ShadowHold(Hold(context.request_id, 0, 0, now_ms, now_ms), held=False, charges=charges)
