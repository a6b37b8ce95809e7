"""The flow with traces: one span for each step, built when the request has ended.

A gate that is configured without traces uses `Flow` and `Observer` themselves, so it pays nothing for
what is here. Spans carry figures and names, never contents, keys or headers. Attributes follow
OpenTelemetry's conventions for HTTP and `gen_ai`; the gate's own begin with `creditgate.`.
"""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, cast

from gateway.domain.money import format_amount
from gateway.domain.reservation import Hold, IdempotencyKey, Settled
from gateway.domain.usage import OUTPUT_UNITS, TOKEN_UNITS, without_tier
from gateway.flow.authentication import Accounts
from gateway.flow.catalog import Catalog
from gateway.flow.context import RequestContext
from gateway.flow.handler import Flow, FlowServices
from gateway.flow.headers import Forwarding
from gateway.flow.known_head import KnownHead
from gateway.flow.observer import Observer
from gateway.flow.request_trace import RequestTrace
from gateway.flow.reservation.reservation import Reservation
from gateway.flow.sending import Sender
from gateway.http.interface import UpstreamResponse
from gateway.telemetry.spans import Attribute, Sampling, Span, SpanQueue, new_span_id

_OPERATIONS: Final = {
    "openai_chat": "chat",
    "openai_responses": "chat",
    "anthropic_messages": "chat",
    "openai_completions": "text_completion",
    "openai_embeddings": "embeddings",
    "gemini_generate": "generate_content",
}
_PROVIDERS: Final = {"openai": "openai", "anthropic": "anthropic", "gemini": "gcp.gemini"}

_Reserve = Callable[[RequestContext, IdempotencyKey | None], Awaitable[Hold]]
_Relay = Callable[[RequestContext, UpstreamResponse, Reservation], Awaitable[None]]


class TracedFlow(Flow):
    """Notes when each step of a request begins and ends."""

    def __init__(
        self, catalog: Catalog, accounts: Accounts, services: FlowServices, sampling: Sampling
    ) -> None:
        reservations = services.reservations
        reservations = replace(reservations, reserve=_traced_reserve(reservations.reserve))
        services = replace(services, reservations=reservations, relay=_traced_relay(services.relay))
        super().__init__(catalog, accounts, services)
        self._sender = TracedSender(services.observer)
        self._sampling = sampling

    async def _know(self, context: RequestContext) -> KnownHead:
        if context.trace is None:
            context.trace = RequestTrace(context.exchange.header("traceparent"), self._sampling)
        with _step(context, "authenticate"):
            return await super()._know(context)

    async def _read(self, context: RequestContext, known: KnownHead) -> None:
        with _step(context, "read"):
            await super()._read(context, known)


class TracedSender(Sender):
    """Has the upstream's span cover the request's attempts, and names it to the upstream."""

    async def send(
        self, context: RequestContext, known: KnownHead, reservation: Reservation
    ) -> UpstreamResponse:
        """See `Sender.send`."""
        assert context.trace is not None, "begun when the head was read"
        head = cast(KnownHead, _TracedHead(known, context.trace.forwarded))
        with _step(context, "upstream"):
            return await super().send(context, head, reservation)


class TracedObserver(Observer):
    """Makes spans of requests that have ended, and of settlements that the ledger has taken."""

    spans: SpanQueue

    def settled(self, reservation: Reservation, settled: Settled) -> None:
        """The ledger has taken the end of a reservation, which may be after the request's own end."""
        super().settled(reservation, settled)
        trace = reservation.context.trace
        if trace is None or not trace.sampled:
            return
        attributes: dict[str, Attribute] = {
            "creditgate.reservation.id": reservation.hold.reservation_id,
            "creditgate.outcome": settled.outcome,
            "creditgate.charged": format_amount(settled.charged_nano),
        }
        now_ns, now = time.time_ns(), time.monotonic()
        began_ns = now_ns - int((now - reservation.ended_at) * 1e9)
        ids = trace.trace_id, new_span_id(), trace.span_id
        self.spans.add([Span("settle", "internal", *ids, began_ns, now_ns, attributes)])

    def request(self, context: RequestContext) -> None:
        """The request has ended. Probes have no trace."""
        super().request(context)
        trace = context.trace
        if trace is None or not trace.sampled:
            return
        if context.route_path is not None and context.route.public:
            return
        self.spans.add(list(_spans_of(context, trace)))


class _TracedHead:
    """A head whose forwarded fields have the trace's in addition. Heads are shared by requests."""

    __slots__ = ("_field", "_known")

    def __init__(self, known: KnownHead, field: bytes) -> None:
        self._known = known
        self._field = field

    def forwarded(self, forwarding: Forwarding, media_type: str | None) -> bytes:
        return self._known.forwarded(forwarding, media_type) + self._field


@contextmanager
def _step(context: RequestContext, name: str) -> Iterator[None]:
    began = time.monotonic()
    error = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        if context.trace is not None:
            context.trace.step(name, began, error)


def _traced_reserve(reserve: _Reserve) -> _Reserve:
    async def traced(context: RequestContext, key: IdempotencyKey | None) -> Hold:
        with _step(context, "reserve"):
            return await reserve(context, key)

    return traced


def _traced_relay(relay: _Relay) -> _Relay:
    async def traced(
        context: RequestContext, response: UpstreamResponse, reservation: Reservation
    ) -> None:
        if context.trace is not None:
            context.trace.answer = lambda: reservation.facts
        with _step(context, "relay"):
            await relay(context, response, reservation)

    return traced


def _spans_of(context: RequestContext, trace: RequestTrace) -> Iterator[Span]:
    now_ns, now = time.time_ns(), time.monotonic()

    def at_ns(moment: float) -> int:
        return now_ns - int((now - moment) * 1e9)

    generation = _generation(context, trace)
    operation = generation.get("gen_ai.operation.name", "upstream")
    for step in trace.steps:
        upstream = step.name == "upstream"
        yield Span(
            f"{operation} {context.model_name}" if upstream else step.name,
            "client" if upstream else "internal",
            trace.trace_id,
            step.span_id,
            trace.span_id,
            at_ns(step.started_at),
            at_ns(step.ended_at),
            {**generation, **_upstream(context)} if upstream else {},
            step.error,
        )
    exchange = context.exchange
    method = exchange.method[:16]
    yield Span(
        f"{method} {context.route_path}" if context.route_path is not None else method,
        "server",
        trace.trace_id,
        trace.span_id,
        trace.parent_id,
        at_ns(context.started_at),
        now_ns,
        {**_request(context), **generation},
        context.reason or "failed" if exchange.status >= 500 else "",
    )


def _request(context: RequestContext) -> dict[str, Attribute]:
    exchange, account = context.exchange, context.account
    attributes: dict[str, Attribute] = {
        "http.request.method": exchange.method[:16],
        "http.response.status_code": exchange.status,
        "creditgate.request.id": context.request_id,
        "creditgate.decision": context.decision,
        "creditgate.reserved": format_amount(context.held_nano),
    }
    if context.route_path is not None:
        attributes["http.route"] = context.route_path
    if context.reason:
        attributes["creditgate.reason"] = context.reason
    if account is not None:
        attributes["creditgate.customer.id"] = account.customer_id
        attributes["creditgate.key.id"] = account.key_id
    return attributes


def _upstream(context: RequestContext) -> dict[str, Attribute]:
    plan = context.plan
    attributes: dict[str, Attribute] = {
        "creditgate.upstream": plan.model.upstream.name,
        "creditgate.mode": plan.mode,
    }
    if context.event.upstream_request_id:
        attributes["creditgate.upstream.request_id"] = context.event.upstream_request_id
    if context.event.upstream_error:
        attributes["error.type"] = context.event.upstream_error
    return attributes


def _generation(context: RequestContext, trace: RequestTrace) -> dict[str, Attribute]:
    """The attributes of `gen_ai`; empty where the request reached no model."""
    dialect = context.dialect
    operation = _OPERATIONS.get(dialect.name)
    if context.model_name is None or operation is None:
        return {}
    found: dict[str, Attribute] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _PROVIDERS.get(dialect.api, dialect.api),
        "gen_ai.request.model": context.model_name,
    }
    if trace.answer is None:
        return found
    facts = trace.answer()
    if facts.response_model:
        found["gen_ai.response.model"] = facts.response_model
    if facts.finish_reason:
        found["gen_ai.response.finish_reasons"] = (facts.finish_reason,)
    if facts.usage is not None:
        tokens = {without_tier(unit): n for unit, n in facts.usage.items() if unit in TOKEN_UNITS}
        written = sum(tokens.get(unit, 0) for unit in OUTPUT_UNITS)
        found["gen_ai.usage.input_tokens"] = sum(tokens.values()) - written
        found["gen_ai.usage.output_tokens"] = written
    return found
