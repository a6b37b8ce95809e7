"""One granted reservation while its request runs, and what its end is.

Invariants: whatever happens between the grant and the end of the request, exactly one settle or
release leaves from here. `Run.resolve` decides which, once, without awaiting; `Settlements`
(`settlements.py`) carries it out, shielded from the client and from the server's clean-up.

A hold grows before it is used up. What the wallet cannot pay is asked for again later, by half,
so that a budget is used to its end; only then is the credit exhausted, and the policy decides.
At each later checkpoint growth is asked for once more: credit may have come. While it is other
requests that hold what is asked for, the credit has not ended: the stream asks again and again,
and when its own hold is used up it stops reading and waits, for a time.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog

from gateway.dialects.base import AnswerFacts, Limit
from gateway.domain.reservation import Account, DenyReason, Extended, Hold, IdempotencyKey, Settled
from gateway.domain.usage import DEFAULT_TIER, Usage
from gateway.flow.catalog import Model, Policy
from gateway.flow.estimate import Bound
from gateway.flow.kept_responses import ANSWER_MAX_BYTES
from gateway.flow.reservation.outcome import Ended, Stage, decide, is_usable, seen_usage
from gateway.flow.reservation.pending_settlement import Verb
from gateway.flow.retries import Attempt
from gateway.http.interface import UpstreamError
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.calls import ExtendCall
from gateway.telemetry.logs import failure

if TYPE_CHECKING:
    from gateway.flow.reservation.delivery import Settlements

log = structlog.get_logger("gate")

KillReason = Literal["wallet_killed", "key_revoked", "gate_stopped"]

EXTEND_AGAIN_S: Final = 1.0
"""After the ledger could not be asked to extend a hold."""

GROW_AGAIN_S: Final = 0.2
"""After a growth that other requests' holds stood against. The ledger keeps new requests back for
longer (GROWTH_MARK_MS), so that what comes free goes to those that run."""

NEVER: Final = math.inf


class Run:
    """A reservation from grant to settlement. The flow notes what it sees; `resolve` reads it.

    stage:      how far the request has come
    status:     the upstream's, 0 until its head has come
    streaming:  what the client asked for, then what the upstream answers
    act_at:     counted output at which the hold is to grow
    stop_at:    output beyond which nothing passes before the hold has grown
    limit:      the same for the meter
    due_at:     when the hold is to be extended at the latest, by the monotonic clock
    refused:    why the hold could not grow when it was last asked for
    killed:     why the operator has ended it
    interrupt:  called when it is to end at once; the flow sets it
    attempt:    by which a retry is known
    idempotency: the client's Idempotency-Key
    released:   it has ended, for nothing
    kept:       the whole answer for its repeats: status, content type, body
    """

    __slots__ = (
        "_answered",
        "_draining",
        "_extend_no",
        "_extending",
        "_look_again",
        "_rev",
        "_settlements",
        "_step",
        "_timer",
        "account",
        "act_at",
        "attempt",
        "bound",
        "due_at",
        "ended_at",
        "event",
        "exhausted",
        "facts",
        "flags",
        "held_nano",
        "hold",
        "idempotency",
        "interrupt",
        "kept",
        "killed",
        "limit",
        "model",
        "policy",
        "refused",
        "released",
        "resolved",
        "stage",
        "started_at",
        "status",
        "stop_at",
        "streaming",
    )

    def __init__(
        self,
        settlements: "Settlements",
        account: Account,
        model: Model,
        policy: Policy,
        bound: Bound,
        hold: Hold,
        event: dict[str, Any],
        started_at: float,
        *,
        stream: bool,
        idempotency: IdempotencyKey | None = None,
        attempt: Attempt | None = None,
    ) -> None:
        self._settlements = settlements
        self.account = account
        self.model = model
        self.policy = policy
        self.bound = bound
        self.hold = hold
        self.held_nano = hold.held_nano
        self.event = event
        self.started_at = self.ended_at = started_at
        self.facts = AnswerFacts()
        self.flags: list[str] = []
        self.stage: Stage = "unsent"
        self.status = 0
        self.streaming = stream
        self.attempt = attempt
        self.idempotency = idempotency
        self.released = False
        self.kept: tuple[int, str, bytes] | None = None
        self.resolved: asyncio.Future[Settled | None] | None = None
        self.exhausted = False
        self.refused: DenyReason | None = None
        self.interrupt: Callable[[], object] | None = None
        self.killed: KillReason | None = None
        self._rev = account.account_rev
        self._extend_no = 0
        self._extending = self._look_again = self._draining = False
        self._answered: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._step = bound.step
        self.act_at = self.stop_at = NEVER
        self.limit: Limit | None = None
        self._plan()
        self.due_at = time.monotonic() + policy.checkpoint_interval_ms / 1000
        if bound.lowered is not None:
            self.flag("clamped")
        settlements.live.add(self)

    # While it runs

    def watch(self, *, ended: bool = False) -> bool:
        """After each piece of a stream: grow the hold in time. True when it is used up: before more
        is read, `covered` is to be asked.

        ended: nothing comes behind this piece, so a hold that covers it need not grow
        """
        used = self._used
        if ended and used <= self.stop_at:
            return False
        if used >= self.act_at and (self._timer is None or self._step > 1):
            self.extend()
        return used > self.stop_at

    @property
    def by_fewest(self) -> bool:
        """Whether the hold covers all that the request allows. Beyond that an answer may not go, so
        its output is taken for what it is at least: no answer that keeps to its maximum is cut."""
        return self.bound.held_output >= self.bound.output

    @property
    def _used(self) -> int:
        facts = self.facts
        return facts.fewest_output if self.by_fewest else facts.counted_output

    async def covered(self) -> bool:
        """Wait until a hold that is used up has grown. False when the stream is to be cut: the credit
        has ended, or what others hold of it has not come free in time."""
        until = time.monotonic() + self.policy.grow_wait_ms / 1000
        while self._used > self.stop_at and not self.exhausted:
            left_s = until - time.monotonic()
            if self._timer is None:
                self.extend()
            elif left_s <= 0:
                self.flag("credit_held")
                return False
            self._answered = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._answered,), timeout=None if self._extending else left_s)
        return self._used <= self.stop_at

    def drain(self) -> None:
        """The client has gone and the upstream is read on: up to what is held, which grows no more."""
        self._draining = True
        self.act_at = NEVER
        self._stop_at(min(self.stop_at, self.bound.held_output))

    @property
    def linger_ms(self) -> int:
        """How long the upstream is listened to once the client has gone."""
        policy = self.policy
        by = policy.disconnect_stream if self.streaming else policy.disconnect_json
        drains = by == "drain" or self.model.hidden_output
        return self.policy.drain_max_ms if drains else 0

    def leaving(self) -> None:
        """The client goes: what it does not have of the answer, it may ask for again."""
        if self.attempt is not None and not self._stream_told:
            self.attempt.left()

    @property
    def answered(self) -> bool:
        """Whether the client, who is still there, has got a whole answer with nothing to retry in it."""
        return self.stage == "whole" and self.status < 400 and not self.facts.error

    @property
    def _stream_told(self) -> bool:
        """Whether the end of the stream was passed on; clients leave on it."""
        return self.streaming and self.facts.finish_reason is not None

    def close(self, *, answered: bool) -> None:
        """The last step, after `resolve`. answered: see there; the client may have left on its end."""
        if self.attempt is not None:
            told = answered or self._stream_told
            self.attempt.finish(answered=told, released=self.released)

    def flag(self, word: str) -> None:
        """Note something odd, for the event."""
        if word not in self.flags:
            self.flags.append(word)

    def note_failure(self, error: UpstreamError, flag: str) -> None:
        """The upstream failed: say so on the event. flag: unless a deadline passed"""
        self.flag("upstream_timeout" if error.timeout else flag)
        self.event["upstream_error"] = error.cause

    def leave(self, *, unsent: bool) -> None:
        """The answer has nobody any more to go to. unsent: before the upstream heard of the request."""
        if self.killed is None:
            self.flag("client_gone")
        if unsent:
            self.stage = "unsent"
        elif self.stage == "sent":
            self.stage = "left"

    def kill(self, reason: KillReason) -> None:
        """The operator ends this answer. Without effect on one that has come whole or was cut."""
        if self.killed is None and self.stage in ("unsent", "sent"):
            self.killed = reason
            self.flag("gate_stopped" if reason == "gate_stopped" else "killed")
            if self.stage == "sent":
                self.stage = "killed"
            if self.interrupt is not None:
                self.interrupt()

    def look(self) -> None:
        """The account was changed: ask the ledger now, or once more if it is being asked."""
        if self._extending:
            self._look_again = True
        else:
            self.extend()

    def keep(self, status: int, media_type: bytes, body: bytes) -> None:
        """The whole answer, for repeats of this request, if it is to be kept."""
        if (
            self.idempotency is not None
            and self.policy.keep_answers
            and len(body) <= ANSWER_MAX_BYTES
        ):
            self.kept = status, media_type.decode("latin-1"), body

    def extend(self) -> None:
        """Move deadline and checkpoint, and grow the hold if it needs it; the answer goes on."""
        if not self._extending and self.resolved is None:
            self._extending = True
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._settlements.spawn(self._extend())

    async def _extend(self) -> None:
        try:
            await self._ask_to_extend()
        finally:
            self._extending = False
            if self._answered is not None and not self._answered.done():
                self._answered.set_result(None)
        if self._look_again:
            self._look_again = False
            self.extend()

    async def _ask_to_extend(self) -> None:
        asked = replace(self.bound, held_output=self._wanted_output())
        facts = self.facts
        seen = seen_usage(facts, self.bound, usable=is_usable(facts, self.bound))
        self._extend_no += 1
        prices = self.model.prices
        try:
            ledger = self._settlements.ledger
            answer = await ledger.extend(
                ledger.shards.pack(self.account),
                ExtendCall(
                    self.hold.reservation_id,
                    self._extend_no,
                    prices.vector(asked.held_usage(self.model)),
                    prices.vector(asked.checkpoint_usage(self.model, self.policy, seen)),
                    asked.tokens,
                    self.policy.hold_ttl_ms,
                ),
            )
            if not isinstance(answer, Extended):
                # Expired, released by an operator, or unknown: the settle puts it right.
                self.due_at = self.act_at = NEVER
                self._stop_at(NEVER)
                return
            self._take(answer, asked)
            if answer.reason == "wallet_killed":
                self.kill("wallet_killed")
            elif answer.account_rev != self._rev:
                if await self._settlements.key_killed(self.account.key_id):
                    self.kill("key_revoked")
                self._rev = answer.account_rev
        except Exception as fault:
            # The stream goes on: its settle charges what it used, also beyond the hold.
            self.due_at = time.monotonic() + EXTEND_AGAIN_S
            if not self.exhausted:
                self.act_at = NEVER  # the next beat asks
                self._stop_at(NEVER)
            if not isinstance(fault, LedgerUnavailable):
                reservation_id = self.hold.reservation_id
                log.error("extend_failed", reservation_id=reservation_id, **failure(fault))

    def _take(self, answer: Extended, asked: Bound) -> None:
        self.due_at = time.monotonic() + self.policy.checkpoint_interval_ms / 1000
        self.held_nano = answer.held_nano
        halved = False
        if asked.held_output > self.bound.held_output:
            self.refused = answer.reason
            if answer.grown:
                self.bound, self._step = asked, asked.step
                self.exhausted = False
            elif self._step > 1:
                self._step, halved = self._step // 2, True
            elif self.refused != "credit_held":
                self.exhausted = True
                self.flag("credit_exhausted")
        if self._draining:
            return
        self._plan()
        if self.exhausted:
            return
        if self._used >= self.act_at and (self.refused is None or halved):
            self._look_again = (
                True  # for less, or for more: each further piece may be beyond the hold
            )
        elif self.refused == "credit_held":
            self._timer = asyncio.get_running_loop().call_later(GROW_AGAIN_S, self.extend)

    def _plan(self) -> None:
        """Where the hold is to grow, and where it ends."""
        bound = self.bound
        if not self.model.output_priced:
            self.act_at = NEVER
            self._stop_at(NEVER)
            return
        self.act_at = NEVER if self.exhausted else self._next_growth()
        finishes = self.policy.exhausted_stream == "finish"
        self._stop_at(max(bound.held_output, bound.output) if finishes else bound.held_output)

    def _stop_at(self, most_output: float) -> None:
        self.stop_at = most_output
        self.limit = None if most_output == NEVER else Limit(most_output, by_fewest=self.by_fewest)

    def _wanted_output(self) -> int:
        """Output to hold from now on, in tokens."""
        bound = self.bound
        used = self._used
        grows = used >= self._next_growth() or self.refused == "credit_held"
        if self._draining or not grows:
            return bound.held_output
        # What is asked for by half is what is left: it need not cover all that has been counted.
        covered = max(bound.held_output, used) if self._step == bound.step else bound.held_output
        wanted = covered + self._step
        return wanted if self.by_fewest else min(bound.output, wanted)

    def _next_growth(self) -> float:
        bound = self.bound
        if self.by_fewest:
            return bound.held_output + 1
        return bound.held_output - int(self._step * (1 - self.policy.extend_at))

    # The end

    def _served_in(self) -> str:
        """The service tier that is charged: the one that the answer names, if the request was held
        for it or it is no dearer; else the one that was asked for."""
        served, tiers, prices = self.facts.service_tier, self.bound.tiers, self.model.prices
        if served is None or served in tiers:
            return served or tiers[0]
        self.flag("service_tier_changed")
        if served in prices.service_tiers and prices.no_dearer(served, tiers[0]):
            return served
        return tiers[0]

    def resolve(self) -> "asyncio.Future[Settled | None]":
        """End the reservation: settle what was used, or release it all. Idempotent, immediate."""
        if self.resolved is None:
            self.resolved = self._settlements.spawn(self._settlements.end(self, *self._decide()))
        return self.resolved

    async def settled_within(self, wait_s: float) -> Settled | None:
        """End now and wait for the ledger's answer, a bounded time; None when it takes longer.

        The ledger's own deadline bounds the usual wait, so that it needs no task and no timer.
        """
        told = self.resolved
        if told is None:
            decided = self._decide()
            told = self.resolved = asyncio.get_running_loop().create_future()
            await self._settlements.end_at_once(self, *decided, told)
        if not told.done():
            await asyncio.wait((told,), timeout=wait_s)
        return told.result() if told.done() else None

    def _decide(self) -> tuple[Verb, Usage]:
        """How it ends, and what the event says about it."""
        self.ended_at = time.monotonic()
        if self._timer is not None:
            self._timer.cancel()
        event, facts = self.event, self.facts
        event["http_status"] = self.status or None
        event["finish_reason"] = "error" if self.stage in ("cut", "killed") else facts.finish_reason
        event["response_model"] = facts.response_model
        served_in = (self._served_in(),)
        if served_in != self.bound.tiers:
            self.bound = replace(self.bound, tiers=served_in)
        if "service_tier" in event:
            event["service_tier"] = self.bound.tiers[0]
        if facts.service_tier not in (None, event.get("service_tier", DEFAULT_TIER)):
            event["response_service_tier"] = facts.service_tier
        event["duration_ms"] = int((self.ended_at - self.started_at) * 1000)
        if self.attempt is not None:
            event["retry_of"] = self.attempt.earlier()
        outcome = decide(
            Ended(
                self.stage,
                self.status,
                self.streaming,
                facts,
                self.bound,
                self.model,
                self.policy,
                self.stop_at,
                self._learned_output,
            )
        )
        for word in outcome.flags:
            self.flag(word)
        event["usage_source"] = outcome.source
        self.released = outcome.verb == "release"
        return outcome.verb, outcome.usage

    def _learned_output(self) -> int | None:
        share = self.policy.expected_share
        if share is None:
            return None
        expected = self._settlements.expected
        return expected.output(self.account.customer_id, self.model.name, share)
