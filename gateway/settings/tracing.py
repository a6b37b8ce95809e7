"""Section of OpenTelemetry traces."""

from collections.abc import Mapping
from typing import Annotated

from gateway.settings.scalars import (
    BaseUrl,
    HeaderName,
    Secret,
    Section,
    Share,
    Switch,
    Whole,
    field,
)


class TracingSection(Section):
    """OpenTelemetry traces over OTLP/HTTP: a span for each step of a request, with figures and names but
    never contents. Needs `pip install 'creditgate[otel]'`. Without this section nothing is traced, and a
    caller's `traceparent` reaches the upstream unchanged."""

    endpoint: BaseUrl = field(
        "URL of the collector that takes spans, path included.",
        "http://127.0.0.1:4318/v1/traces",
    )
    headers: Mapping[HeaderName, Secret] = field(
        "Headers of each export, such as a collector's credential.",
        {"authorization": "Bearer ${OTLP_TOKEN}"},
        factory=dict,
    )
    sample_ratio: Share = field("Share of the traces that are recorded.", 0.1, 1.0)
    follow_callers: Switch = field(
        "A caller that sends `traceparent` decides whether its trace is recorded. Turn it off where "
        "callers are strangers: then `sample_ratio` decides alone.",
        True,
        True,
    )
    queue_spans: Annotated[int, Whole(100, 1_000_000)] = field(
        "Spans that one worker keeps for export; beyond it spans are dropped and counted.",
        20_000,
        10_000,
    )
    timeout_ms: Annotated[int, Whole(100, 60_000)] = field(
        "How long an export may take, retries included; then its spans are dropped and counted.",
        10_000,
        5_000,
    )
