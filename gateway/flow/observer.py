"""What is seen from outside of each request: metrics, its log line, its refusal kept for `why`."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from gateway.domain.customers import Mode
from gateway.domain.reservation import Settled
from gateway.flow.context import RequestContext
from gateway.flow.refusals import Refused
from gateway.flow.reservation.reservation import Reservation
from gateway.http.breaker import BREAKER_STATES
from gateway.http.interface import Breaker, Upstream, UpstreamAuthError, UpstreamError
from gateway.ledger.codec.refusals import RefusedRequest
from gateway.ledger.key_uses import KeyUses
from gateway.ledger.refusals import RefusalLog
from gateway.telemetry.logs import RequestLog, failure
from gateway.telemetry.names import GateMetrics

log = structlog.get_logger("gate")


class Observer:
    """Counts and notes; never awaits, never fails a request."""

    def __init__(
        self, metrics: GateMetrics, lines: RequestLog, refusals: RefusalLog, key_uses: KeyUses
    ) -> None:
        self.metrics = metrics
        self._key_uses = key_uses
        self._lines = lines
        self._refusals = refusals
        self._allowed = metrics.decisions.labels("allow", "")
        self._with_breaker: set[str] = set()
        self._settled = metrics.ended.labels("settled")

    def admitted(self, context: RequestContext) -> None:
        """The ledger has granted the hold; what the gate added until now is latency of ours."""
        context.admitted = True
        if context.decision == "allow":
            self._allowed.inc()
        else:
            objection = context.objection
            reason = "" if objection is None else objection.reason
            self.metrics.decisions.labels(context.decision, reason).inc()
        self.metrics.added_latency_seconds.observe(time.monotonic() - context.started_at)

    def replayed(self, context: RequestContext) -> None:
        """A repeat got the recorded answer; nothing was reserved."""
        context.decision = "replay"
        self.metrics.decisions.labels("replay", "").inc()

    def head_arrivals(self, upstream: Upstream) -> Callable[[float], None]:
        """What takes the seconds from a request to an upstream until the head of its response."""
        return self.metrics.upstream_latency_seconds.labels(upstream.name).observe

    def upstream_failed(self, context: RequestContext, error: UpstreamError) -> None:
        """An attempt gave no complete response, or the upstream refused the gate's credential."""
        context.upstream_error = str(error)
        context.upstream = upstream = context.plan.model.upstream.name
        if isinstance(error, UpstreamAuthError):
            log.error("upstream_auth_failed", upstream=upstream, status=error.status)
        self.metrics.upstream_failures.labels(upstream, error.cause).inc()

    def failed_over(self, context: RequestContext, why: str) -> None:
        """The request goes to another upstream of its model. why: a cause, or a status"""
        self.metrics.upstream_failovers.labels(context.plan.model.upstream.name, why).inc()

    def breaker_opened(self, upstream: Upstream, why: str) -> None:
        """Requests are kept from an upstream. why: the last failure, a cause or a status"""
        self.metrics.upstream_breaker_opened.labels(upstream.name).inc()
        open_ms = int(upstream.breaker.limits.open_s * 1000)
        log.warning("upstream_opened", upstream=upstream.name, last_failure=why, open_ms=open_ms)

    def breaker_closed(self, upstream: Upstream) -> None:
        """A probe has succeeded."""
        log.info("upstream_closed", upstream=upstream.name)

    def breaker_states(self, breakers: Mapping[str, Breaker]) -> None:
        """Show the breakers by the name of their upstream; those that a reload dropped as closed."""
        gauge = self.metrics.upstream_breaker_state
        for name in self._with_breaker - breakers.keys():
            gauge.labels(name).set(0)
        for name, breaker in breakers.items():
            gauge.labels(name).set(BREAKER_STATES.index(breaker.state))
        self._with_breaker |= breakers.keys()

    def settled(self, reservation: Reservation, settled: Settled) -> None:
        """The ledger has taken the end of a reservation."""
        metrics = self.metrics
        if settled.outcome == "settled":
            self._settled.inc()
        else:
            metrics.ended.labels(settled.outcome).inc()
        if settled.charged_nano:
            metrics.estimate_over_actual.observe(reservation.held_nano / settled.charged_nano)
        metrics.settle_lag_seconds.observe(time.monotonic() - reservation.ended_at)

    def denied(self, context: RequestContext, refused: Refused, status: int) -> None:
        """Count a denial; keep that of a known customer for `why`."""
        self.metrics.decisions.labels("deny", refused.reason).inc()
        self._keep(context, refused, status, "enforce")

    def would_deny(self, context: RequestContext, refused: Refused) -> None:
        """Keep what would have refused a request that runs in shadow mode."""
        status, _ = context.dialect.refusal(refused.as_refusal(context.request_id))
        self._keep(context, refused, status, "shadow")

    def _keep(self, context: RequestContext, refused: Refused, status: int, mode: Mode) -> None:
        account = context.account
        if account is None:
            return  # strangers get no memory
        detail = refused.detail
        self._refusals.note(
            RefusedRequest(
                request_id=context.request_id,
                reason=refused.reason,
                status=status,
                customer_id=account.customer_id,
                key_id=account.key_id,
                route=context.route_path,
                model=context.model_name,
                estimate_nano=context.denied.estimate_nano if context.denied else None,
                available_nano=context.denied.available_nano if context.denied else None,
                balance_nano=context.denied.balance_nano if context.denied else None,
                limit=str(detail["limit_source"]) if "limit_source" in detail else None,
                message=refused.message,
                mode=mode,
            )
        )

    def fault(self, context: RequestContext, fault: BaseException) -> None:
        """A bug of ours: type and place, nothing of the request."""
        log.error("request_failed", request_id=context.request_id, **failure(fault))

    def request(self, context: RequestContext) -> None:
        """The request has ended: its one log line. Probes of `/healthz` and `/readyz` have none: they
        come every few seconds, and what changes their answer is logged where it changes."""
        if context.route_path is not None and context.route.public:
            return
        exchange = context.exchange
        account = context.account
        at_ms = time.time_ns() // 1_000_000
        if account is not None:
            self._key_uses.note(account.key_id, at_ms)
        line: dict[str, Any] = {
            "at_ms": at_ms,
            "request_id": context.request_id,
            "method": exchange.method[:16],
            "route": context.route_path,
            "status": exchange.status,
            "customer_id": account.customer_id if account else None,
            "key_id": account.key_id if account else None,
            "model": context.model_name,
            "upstream": context.upstream,
            "decision": context.decision,
            "reason": context.reason,
            "held_nano": context.held_nano,
            "upstream_ms": int(context.upstream_s * 10_000) / 10,
            "duration_ms": int((time.monotonic() - context.started_at) * 10_000) / 10,
        }
        if context.objection is not None:
            line["would_deny"] = context.objection.reason
        if context.upstream_error:
            line["upstream_error"] = context.upstream_error
        self._lines.note(line)
