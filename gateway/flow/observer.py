"""What is seen from outside of each request: metrics, its log line, its refusal kept for `why`."""

import time
from typing import Any

import structlog

from gateway.domain.reservation import Settled
from gateway.flow.context import Trail
from gateway.flow.refusals import Refused
from gateway.flow.reservation.run import Run
from gateway.http.interface import Exchange, UpstreamAuthError, UpstreamError
from gateway.ledger.refusals import RefusalLog, RefusedRequest
from gateway.telemetry.logs import RequestLog, failure
from gateway.telemetry.metrics import Histogram
from gateway.telemetry.names import GateMetrics

log = structlog.get_logger("gate")


class Observer:
    """Counts and notes; never awaits, never fails a request."""

    def __init__(self, metrics: GateMetrics, lines: RequestLog, refusals: RefusalLog) -> None:
        self.metrics = metrics
        self._lines = lines
        self._refusals = refusals
        self._allowed = metrics.decisions.labels("allow", "")
        self._head_arrived: dict[str, Histogram] = {}
        self._settled = metrics.ended.labels("settled")

    def admitted(self, trail: Trail) -> None:
        """The ledger has granted the hold; what the gate added until now is latency of ours."""
        trail.admitted = True
        self._allowed.inc()
        self.metrics.added_latency_seconds.observe(time.monotonic() - trail.started_at)

    def replayed(self, trail: Trail) -> None:
        """A repeat got the recorded answer; nothing was reserved."""
        trail.decision = "replay"
        self.metrics.decisions.labels("replay", "").inc()

    def answered(self, trail: Trail, upstream: str, seconds: float) -> None:
        """The upstream's head has arrived."""
        trail.upstream_s = seconds
        histogram = self._head_arrived.get(upstream)
        if histogram is None:
            histogram = self.metrics.upstream_latency_seconds.labels(upstream)
            self._head_arrived[upstream] = histogram
        histogram.observe(seconds)

    def upstream_failed(self, trail: Trail, upstream: str, error: UpstreamError) -> None:
        """An attempt gave no complete response, or the upstream refused the gate's credential."""
        trail.upstream_error = str(error)
        if isinstance(error, UpstreamAuthError):
            log.error("upstream_auth_failed", upstream=upstream, status=error.status)
        self.metrics.upstream_failures.labels(upstream, error.cause).inc()

    def settled(self, run: Run, settled: Settled) -> None:
        """The ledger has taken the end of a reservation."""
        metrics = self.metrics
        if settled.outcome == "settled":
            self._settled.inc()
        else:
            metrics.ended.labels(settled.outcome).inc()
        if settled.charged_nano:
            metrics.estimate_over_actual.observe(run.held_nano / settled.charged_nano)
        metrics.settle_lag_seconds.observe(time.monotonic() - run.ended_at)

    def denied(self, trail: Trail, refused: Refused, status: int) -> None:
        """Count a denial; keep that of a known customer for `why`."""
        self.metrics.decisions.labels("deny", refused.reason).inc()
        account = trail.account
        if account is None:
            return  # strangers get no memory
        detail = refused.detail
        self._refusals.note(
            RefusedRequest(
                request_id=trail.request_id,
                reason=refused.reason,
                status=status,
                customer_id=account.customer_id,
                key_id=account.key_id,
                route=trail.route.path if trail.route else None,
                model=trail.model,
                estimate_nano=trail.denied.estimate_nano if trail.denied else None,
                available_nano=trail.denied.available_nano if trail.denied else None,
                balance_nano=trail.denied.balance_nano if trail.denied else None,
                limit=str(detail["limit_source"]) if "limit_source" in detail else None,
                message=refused.message,
            )
        )

    def fault(self, trail: Trail, fault: BaseException) -> None:
        """A bug of ours: type and place, nothing of the request."""
        log.error("request_failed", request_id=trail.request_id, **failure(fault))

    def request(self, trail: Trail, exchange: Exchange) -> None:
        """The request has ended: its one log line. Probes of `/healthz` and `/readyz` have none: they
        come every few seconds, and what changes their answer is logged where it changes."""
        if trail.route is not None and trail.route.public:
            return
        account = trail.account
        line: dict[str, Any] = {
            "at_ms": time.time_ns() // 1_000_000,
            "request_id": trail.request_id,
            "method": exchange.method[:16],
            "route": trail.route.path if trail.route else None,
            "status": exchange.status,
            "customer_id": account.customer_id if account else None,
            "key_id": account.key_id if account else None,
            "model": trail.model,
            "decision": trail.decision,
            "reason": trail.reason,
            "held_nano": trail.held_nano,
            "upstream_ms": int(trail.upstream_s * 10_000) / 10,
            "duration_ms": int((time.monotonic() - trail.started_at) * 10_000) / 10,
        }
        if trail.upstream_error:
            line["upstream_error"] = trail.upstream_error
        self._lines.note(line)
