"""What is sent to the ledger when a reservation ends: the outcome, and the event that says so."""

from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from gateway.dialects.base import AnswerFacts
from gateway.domain.reservation import Hold, IdempotencyKey
from gateway.domain.token_vectors import PackedTokens
from gateway.domain.usage import DEFAULT_TIER, OUTPUT_UNITS, TOKEN_UNITS, without_tier
from gateway.domain.usage_facts import UsageFacts
from gateway.flow.context import RequestContext
from gateway.flow.estimate import Estimate
from gateway.flow.expected_output import ExpectedOutput
from gateway.flow.plan import Plan
from gateway.flow.reservation.ended import Ended, Verb
from gateway.flow.reservation.growth import NEVER, Growth
from gateway.flow.reservation.outcome import decide
from gateway.flow.reservation.pending_settlement import PendingSettlement
from gateway.flow.reservation.progress import Progress
from gateway.flow.reservation.seen_usage import plain_usage
from gateway.flow.retries import Retries
from gateway.ledger.codec.calls import ReleaseCall, SettleCall

_ENDED_BY_GATE: Final = frozenset({"cut", "killed"})


class EndingServices(Protocol):
    """What a reservation asks and notifies when it ends."""

    @property
    def retries(self) -> Retries: ...

    @property
    def expected(self) -> ExpectedOutput: ...


class Ending(Protocol):
    """A reservation that ends. `estimate` gets the service tier that is charged, `event` all that
    its request has shown, and `released` whether nothing is charged."""

    context: RequestContext
    plan: Plan
    hold: Hold
    estimate: Estimate
    facts: AnswerFacts
    progress: Progress
    event: UsageFacts
    idempotency: IdempotencyKey | None
    ended_at: float
    released: bool

    @property
    def services(self) -> EndingServices: ...

    @property
    def growth(self) -> Growth: ...


def settlement_of(of: Ending) -> PendingSettlement:
    """Decide how a reservation ends. What is seen, and all that the event says, is read now."""
    event, facts, progress, context = of.event, of.facts, of.progress, of.context
    stage = progress.stage
    event.http_status = progress.status or None
    event.response_model = facts.response_model
    event.finish_reason = "error" if stage in _ENDED_BY_GATE else facts.finish_reason
    if facts.service_tier is not None or len(of.estimate.tiers) > 1:
        _note_tier(of)
    event.duration_ms = int((of.ended_at - context.started_at) * 1000)
    event.retry_of = of.services.retries.earlier(context)
    event.flags = progress.flags
    if stage == "complete" and progress.status < 400:
        plain = plain_usage(facts, of.estimate, of.plan.model)
        if plain is not None:
            if facts.flags:
                _note_flags(progress, facts.flags)
            event.usage_source = facts.source
            return _pending(of, "settle", plain)
    return _pending(of, *_decided(of))


def _note_flags(progress: Progress, flags: tuple[str, ...]) -> None:
    for word in flags:
        progress.flag(word)


def _decided(of: Ending) -> tuple[Verb, PackedTokens]:
    """The outcome by the table, with what the event says about it."""
    progress, plan = of.progress, of.plan
    left_stream = progress.stage == "left" and progress.streaming
    outcome = decide(
        Ended(
            progress.stage,
            progress.status,
            progress.streaming,
            of.facts,
            of.estimate,
            plan.model,
            plan.policy,
            of.growth.stop_at if left_stream else NEVER,
            partial(_learned_output, of),
        )
    )
    _note_flags(of.progress, outcome.flags)
    of.event.usage_source = outcome.source
    tokens = output = 0
    for unit, quantity in outcome.usage.items():
        if unit in TOKEN_UNITS:
            tokens += quantity
            if unit in OUTPUT_UNITS or without_tier(unit) in OUTPUT_UNITS:
                output += quantity
    if outcome.verb == "release":
        of.released = True
        return outcome.verb, PackedTokens(b"", tokens, output)
    return outcome.verb, PackedTokens(plan.model.prices.vector(outcome.usage), tokens, output)


def _pending(of: Ending, verb: Verb, used: PackedTokens) -> PendingSettlement:
    plan, model = of.plan, of.plan.model
    if verb == "settle" and of.progress.stage == "complete":
        outputs = plan.outputs
        if outputs is None:
            expected = of.services.expected
            outputs = expected.outputs_of(plan.account.customer_id, model.name)
            plan.outputs = outputs
        outputs.note(used.output)
    facts = plan.facts_packer.pack_ended(of.event)
    hold = of.hold
    call: SettleCall | ReleaseCall
    if verb == "settle":
        call = SettleCall(
            hold.reservation_id,
            model.prices,
            used.vector,
            facts,
            used.tokens,
            hold.reserved_at_ms,
            model.scope_bits,
        )
    else:
        named = of.idempotency.key if of.idempotency else ""
        call = ReleaseCall(hold.reservation_id, facts, hold.reserved_at_ms, named)
    return PendingSettlement(plan.account, call, plan.packed)


def _note_tier(of: Ending) -> None:
    """Charge the service tier that the response names, if the request was held for it or it is
    no more expensive; else the one that was asked for."""
    served, tiers = of.facts.service_tier, of.estimate.tiers
    prices = of.plan.model.prices
    charged = tiers[0]
    if served is not None and served != charged:
        if served in tiers:
            charged = served
        else:
            of.progress.flag("service_tier_changed")
            if served in prices.service_tiers and prices.no_dearer(served, charged):
                charged = served
    if (charged,) != tiers:
        of.estimate = replace(of.estimate, tiers=(charged,), text_only=False)
    if of.event.service_tier is not None:
        of.event.service_tier = charged
    if served not in (None, of.event.service_tier or DEFAULT_TIER):
        of.event.response_service_tier = served


def _learned_output(of: Ending) -> int | None:
    share = of.plan.policy.expected_share
    if share is None:
        return None
    customer_id = of.plan.account.customer_id
    return of.services.expected.output(customer_id, of.plan.model.name, share)
