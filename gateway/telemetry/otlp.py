"""Sends spans over OTLP/HTTP with OpenTelemetry's exporter: the extra `creditgate[otel]`."""

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gateway.telemetry.spans import Span

_KINDS: Final = {
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "internal": SpanKind.INTERNAL,
}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


class NotTaken(Exception):
    """The collector did not take a batch."""


class OtlpExport:
    """Sends batches of spans to one collector; call it in a thread."""

    def __init__(
        self, endpoint: str, headers: Mapping[str, str], timeout_s: float, version: str
    ) -> None:
        """endpoint: the complete URL, `/v1/traces` included. timeout_s: for a batch, retries included"""
        self._exporter = OTLPSpanExporter(
            endpoint=endpoint, headers=dict(headers), timeout=timeout_s
        )
        self._scope = InstrumentationScope("creditgate", version)
        self._resource = Resource(
            {
                "service.name": "creditgate",
                "service.version": version,
                "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            }
        )

    def __call__(self, spans: Sequence[Span]) -> None:
        """Send them. Raises NotTaken."""
        if self._exporter.export([self._read(span) for span in spans]) != SpanExportResult.SUCCESS:
            raise NotTaken("the collector did not take the spans")

    def _read(self, span: Span) -> ReadableSpan:
        context = SpanContext(span.trace_id, span.span_id, is_remote=False, trace_flags=_SAMPLED)
        parent = None
        if span.parent_id is not None:
            parent = SpanContext(span.trace_id, span.parent_id, True, _SAMPLED)
        return ReadableSpan(
            name=span.name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=span.attributes,
            kind=_KINDS[span.kind],
            instrumentation_scope=self._scope,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
            start_time=span.started_ns,
            end_time=span.ended_ns,
        )
