"""The traces of a worker, if its configuration asks for them."""

from dataclasses import dataclass

import gateway
from gateway.app.roles import CannotServe
from gateway.flow.authentication import Accounts
from gateway.flow.catalog import Catalog
from gateway.flow.handler import Flow, FlowServices
from gateway.flow.observer import Observer
from gateway.flow.tracing import TracedFlow, TracedObserver
from gateway.ledger.key_uses import KeyUses
from gateway.ledger.refusals import RefusalLog
from gateway.settings import Settings
from gateway.telemetry.logs import RequestLog
from gateway.telemetry.names import GateMetrics
from gateway.telemetry.spans import Sampling, SpanQueue


@dataclass(frozen=True, slots=True)
class Tracing:
    """Makes the flow and the observer that trace, or those that do not. spans: None without traces"""

    spans: SpanQueue | None
    sampling: Sampling

    def observer(
        self, metrics: GateMetrics, lines: RequestLog, refusals: RefusalLog, key_uses: KeyUses
    ) -> Observer:
        """The observer of the flow."""
        if self.spans is None:
            return Observer(metrics, lines, refusals, key_uses)
        observer = TracedObserver(metrics, lines, refusals, key_uses)
        observer.spans = self.spans
        return observer

    def flow(self, catalog: Catalog, accounts: Accounts, services: FlowServices) -> Flow:
        """The flow."""
        if self.spans is None:
            return Flow(catalog, accounts, services)
        return TracedFlow(catalog, accounts, services, self.sampling)


def open_tracing(settings: Settings, metrics: GateMetrics) -> Tracing:
    """What the configuration asks for. Raises CannotServe without OpenTelemetry's packages."""
    section = settings.tracing
    if section is None:
        return Tracing(None, Sampling(0))
    try:
        from gateway.telemetry.otlp import OtlpExport
    except ModuleNotFoundError as error:
        raise CannotServe(
            f"tracing: {error.name} is not installed: pip install 'creditgate[otel]'"
        ) from error
    headers = {name: value.get_secret_value() for name, value in section.headers.items()}
    export = OtlpExport(
        str(section.endpoint), headers, section.timeout_ms / 1000, gateway.__version__
    )
    queue = SpanQueue(export, section.queue_spans, metrics.trace_spans_dropped)
    return Tracing(queue, Sampling(section.sample_ratio, section.follow_callers))
