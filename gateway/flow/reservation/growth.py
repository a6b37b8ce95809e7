"""Extends a hold while its request runs: moves its deadline and checkpoint, and lets it grow.

A hold grows before it is used up. What the wallet cannot pay is asked for again by half, so that a
budget is used to its end; only then is the credit exhausted, and the policy decides. Each later
checkpoint asks for growth again, because credit may have been added. While other requests hold what
is asked for, the credit is not exhausted: the stream asks again and again, and when its own hold is
used up it stops reading and waits, for a limited time.
"""

import asyncio
import math
import time
from dataclasses import replace
from typing import Final

import structlog

from gateway.dialects.base import Limit
from gateway.domain.reservation import DenyReason, Extended
from gateway.flow.estimate import Estimate
from gateway.flow.reservation.growing import Growing, GrowthServices
from gateway.flow.reservation.seen_usage import is_usable, seen_usage
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.calls import ExtendCall
from gateway.telemetry.logs import failure

log = structlog.get_logger("gate")

EXTEND_AGAIN_S: Final = 1.0
"""After the ledger could not be asked to extend a hold."""

GROW_AGAIN_S: Final = 0.2
"""After a growth that other requests' holds stood against. The ledger keeps new requests back for
longer (GROWTH_MARK_MS), so that what comes free goes to those that run."""

NEVER: Final = math.inf


class Growth:
    """One hold that is extended.

    act_at:    counted output at which the hold is to grow
    stop_at:   output beyond which nothing passes before the hold has grown
    limit:     the same for the meter; None when there is no such bound
    exhausted: the wallet cannot pay for more
    refused:   why the hold could not grow when the ledger was last asked
    """

    __slots__ = (
        "_account_rev",
        "_answered",
        "_draining",
        "_extend_no",
        "_extending",
        "_of",
        "_services",
        "_step",
        "_timer",
        "_wanted_again",
        "act_at",
        "exhausted",
        "limit",
        "refused",
        "stop_at",
    )

    def __init__(self, services: GrowthServices, reservation: Growing) -> None:
        self._services = services
        self._of = reservation
        self._account_rev = reservation.plan.account.account_rev
        self._extend_no = 0
        self._extending = self._wanted_again = self._draining = False
        self._answered: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._step = reservation.estimate.step
        self.exhausted = False
        self.refused: DenyReason | None = None
        self.act_at = self.stop_at = NEVER
        self.limit: Limit | None = None
        self._set_marks()

    # The stream's side

    def watch(self, *, ended: bool = False) -> bool:
        """After each piece of a stream: grow the hold in time. True when the hold is used up; then
        `covered` decides before more is read.

        ended: nothing follows this piece, so a hold that covers it need not grow
        """
        used = self._used
        if ended and used <= self.stop_at:
            return False
        if used >= self.act_at and (self._timer is None or self._step > 1):
            self.extend()
        return used > self.stop_at

    async def covered(self) -> bool:
        """Wait until a hold that is used up has grown. False when the stream must be cut: the credit
        is exhausted, or what other requests hold of it has not come free in time."""
        until = time.monotonic() + self._of.plan.policy.grow_wait_ms / 1000
        while self._used > self.stop_at and not self.exhausted:
            left_s = until - time.monotonic()
            if self._timer is None:
                self.extend()
            elif left_s <= 0:
                self._of.progress.flag("credit_held")
                return False
            self._answered = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._answered,), timeout=None if self._extending else left_s)
        return self._used <= self.stop_at

    def drain(self) -> None:
        """The client has gone and the upstream is read on, up to what is held: no more growth."""
        self._draining = True
        self.act_at = NEVER
        self._set_stop(min(self.stop_at, self._of.estimate.held_output))

    @property
    def by_fewest(self) -> bool:
        """Whether the hold covers all that the request allows.

        A response cannot pass that bound, so its output is counted at the least that it can be: no
        response that keeps to its maximum is cut.
        """
        estimate = self._of.estimate
        return estimate.held_output >= estimate.output

    @property
    def _used(self) -> int:
        facts = self._of.facts
        return facts.fewest_output if self.by_fewest else facts.counted_output

    # Extending

    def extend(self) -> None:
        """Move deadline and checkpoint, and grow the hold if it needs it; the response goes on."""
        if not self._extending and not self._of.ended:
            self._extending = True
            self.close()
            self._services.spawn(self._extend())

    def look(self) -> None:
        """The account was changed: ask the ledger now, or again if it is being asked."""
        if self._extending:
            self._wanted_again = True
        else:
            self.extend()

    def close(self) -> None:
        """Stop the timer. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _extend(self) -> None:
        try:
            await self._ask_ledger()
        finally:
            self._extending = False
            if self._answered is not None and not self._answered.done():
                self._answered.set_result(None)
        if self._wanted_again:
            self._wanted_again = False
            self.extend()

    async def _ask_ledger(self) -> None:
        of = self._of
        plan, facts = of.plan, of.facts
        asked = replace(of.estimate, held_output=self._wanted_output())
        seen = seen_usage(facts, of.estimate, usable=is_usable(facts, of.estimate))
        self._extend_no += 1
        prices = plan.model.prices
        try:
            ledger = self._services.ledger
            answer = await ledger.extend(
                plan.pack(ledger.shards),
                ExtendCall(
                    of.hold.reservation_id,
                    self._extend_no,
                    of.hold_vector(asked),
                    prices.vector(asked.checkpoint_usage(plan.model, plan.policy, seen)),
                    asked.tokens,
                    plan.policy.hold_ttl_ms,
                ),
            )
            if not isinstance(answer, Extended):
                # Expired, released by an operator, or unknown: the settlement corrects it.
                of.due_at = self.act_at = NEVER
                self._set_stop(NEVER)
                return
            self._take(answer, asked)
            if answer.reason == "wallet_killed":
                of.kill("wallet_killed")
            elif answer.account_rev != self._account_rev:
                if await self._services.key_killed(plan.account.key_id):
                    of.kill("key_revoked")
                self._account_rev = answer.account_rev
        except Exception as fault:
            # The stream goes on: its settlement charges what it used, also beyond the hold.
            of.due_at = time.monotonic() + EXTEND_AGAIN_S
            if not self.exhausted:
                self.act_at = NEVER  # the next periodic extension asks
                self._set_stop(NEVER)
            if not isinstance(fault, LedgerUnavailable):
                log.error("extend_failed", reservation_id=of.hold.reservation_id, **failure(fault))

    def _take(self, answer: Extended, asked: Estimate) -> None:
        """Note what the ledger answered."""
        of = self._of
        of.due_at = time.monotonic() + of.plan.policy.checkpoint_interval_ms / 1000
        of.held_nano = answer.held_nano
        halved = False
        if asked.held_output > of.estimate.held_output:
            self.refused = answer.reason
            if answer.grown:
                of.estimate, self._step = asked, asked.step
                self.exhausted = False
            elif self._step > 1:
                self._step, halved = self._step // 2, True
            elif self.refused != "credit_held":
                self.exhausted = True
                of.progress.flag("credit_exhausted")
        if self._draining:
            return
        self._set_marks()
        if self.exhausted:
            return
        if self._used >= self.act_at and (self.refused is None or halved):
            # For less, or for more: each further piece may be beyond the hold.
            self._wanted_again = True
        elif self.refused == "credit_held":
            self._timer = asyncio.get_running_loop().call_later(GROW_AGAIN_S, self.extend)

    # Where the hold is to grow, and where it ends

    def _set_marks(self) -> None:
        estimate, plan = self._of.estimate, self._of.plan
        if not plan.model.output_priced:
            self.act_at = NEVER
            self._set_stop(NEVER)
            return
        self.act_at = NEVER if self.exhausted else self._next_growth()
        most = estimate.held_output
        ends = plan.policy.exhausted_stream
        if ends == "finish":
            most = max(most, estimate.output)
        self._set_stop(NEVER if ends == "pass" else most)

    def _set_stop(self, most_output: float) -> None:
        self.stop_at = most_output
        self.limit = None if most_output == NEVER else Limit(most_output, by_fewest=self.by_fewest)

    def _wanted_output(self) -> int:
        """Output to hold from now on, in tokens."""
        estimate = self._of.estimate
        held, used = estimate.held_output, self._used
        grows = used >= self._next_growth() or self.refused == "credit_held"
        if self._draining or not grows:
            return held
        # What is asked for by half is what is left: it need not cover all that has been counted.
        covered = max(held, used) if self._step == estimate.step else held
        wanted = covered + self._step
        return wanted if self.by_fewest else min(estimate.output, wanted)

    def _next_growth(self) -> float:
        held = self._of.estimate.held_output
        if self.by_fewest:
            return held + 1
        return held - int(self._step * (1 - self._of.plan.policy.extend_at))
