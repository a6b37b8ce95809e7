"""Traces as a collector receives them: one span per step, and the caller's context to the upstream."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

from loadtest.ports import free_ports
from tests.support.gate import BROKE_KEY, Serve
from tests.support.until import until
from tests.support.upstreams import Sim, sim

__all__ = ["sim"]

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = CALLER[:-2] + "00"
TRACE = bytes.fromhex(CALLER[3:35])
STEPS = {"authenticate", "read", "reserve", "chat small", "relay", "settle"}


@dataclass
class Collector:
    """What an OTLP collector has received."""

    endpoint: str
    spans: list[Span] = field(default_factory=list)

    def named(self) -> dict[str, Span]:
        return {span.name: span for span in self.spans}

    async def request(self, name: str = "POST /v1/chat/completions") -> dict[str, Span]:
        """Wait for the span of a request; returns it and its steps by name."""
        await until(lambda: {name} <= self.named().keys(), within_s=20)
        return self.named()


def said(span: Span) -> dict[str, Any]:
    """The attributes of a span."""
    found: dict[str, Any] = {}
    for each in span.attributes:
        kind = each.value.WhichOneof("value")
        value: Any = getattr(each.value, kind or "string_value")
        found[each.key] = [v.string_value for v in value.values] if kind == "array_value" else value
    return found


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    [port] = free_ports(1)
    async with OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(port)) as receiver:
        found = Collector(f"http://127.0.0.1:{port}/v1/traces")

        async def take() -> None:
            async for span in receiver.stream_traces():
                found.spans.append(span)

        taking = asyncio.create_task(take())
        yield found
        taking.cancel()


def tracing(collector: Collector, **changes: Any) -> dict[str, Any]:
    return {"endpoint": collector.endpoint, **changes}


def arrived(sim: Sim, name: str = "traceparent") -> str | None:
    """A header of the last request, as the upstream saw it."""
    return dict(sim.provider.served.rows[-1].headers or ()).get(name)


async def test_each_step_of_a_request_is_a_span_below_the_callers(
    serve: Serve, collector: Collector, sim: Sim
) -> None:
    async with serve(tracing=tracing(collector)) as gate:
        body = {"model": "small", "messages": [{"role": "user", "content": "x\nsim: tokens=5"}]}
        answer = await gate.post("/v1/chat/completions", body, {"traceparent": CALLER})
        assert answer.status_code == 200
        await until(lambda: collector.named().keys() >= STEPS, within_s=20)
        spans = await collector.request()
        root = spans["POST /v1/chat/completions"]
        assert (root.trace_id, root.parent_span_id.hex()) == (TRACE, CALLER[36:52])
        assert root.kind == Span.SPAN_KIND_SERVER
        for name in STEPS:
            step = spans[name]
            assert (step.trace_id, step.parent_span_id) == (TRACE, root.span_id)
            assert root.start_time_unix_nano <= step.start_time_unix_nano <= step.end_time_unix_nano
        ordered = [
            spans[n].start_time_unix_nano
            for n in ("authenticate", "read", "reserve", "chat small", "relay")
        ]
        assert ordered == sorted(ordered)
        upstream = spans["chat small"]
        assert upstream.kind == Span.SPAN_KIND_CLIENT
        assert arrived(sim) == f"00-{TRACE.hex()}-{upstream.span_id.hex()}-01"
        usage = answer.json()["usage"]
        attributes = said(upstream)
        assert attributes["gen_ai.operation.name"] == "chat"
        assert attributes["gen_ai.provider.name"] == "openai"
        assert attributes["gen_ai.request.model"] == "small"
        assert attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
        assert attributes["gen_ai.usage.output_tokens"] == 5
        assert attributes["creditgate.upstream"] == "sim"
        whole = said(root)
        assert whole["http.response.status_code"] == 200
        assert whole["http.route"] == "/v1/chat/completions"
        assert whole["creditgate.customer.id"] == "acme"
        assert said(spans["settle"])["creditgate.charged"] == answer.headers["x-credits-cost"]


async def test_a_stream_and_a_refusal_are_traced(serve: Serve, collector: Collector) -> None:
    async with serve(tracing=tracing(collector)) as gate:
        await gate.chat("x\nsim: tokens=5", stream=True)
        await until(lambda: collector.named().keys() >= STEPS, within_s=20)
        assert said(collector.named()["chat small"])["gen_ai.response.finish_reasons"] == ["stop"]
        collector.spans.clear()
        body = {"model": "small", "messages": [{"role": "user", "content": "x"}]}
        broke = {"authorization": f"Bearer {BROKE_KEY}"}
        assert (await gate.post("/v1/chat/completions", body, broke)).status_code == 402
        spans = await collector.request()
        assert "chat small" not in spans
        assert spans["reserve"].status.message == "Refused"
        whole = said(spans["POST /v1/chat/completions"])
        assert (whole["creditgate.decision"], whole["creditgate.reason"]) == (
            "deny",
            "insufficient_credits",
        )


async def test_spans_hold_no_contents_and_no_keys(serve: Serve, collector: Collector) -> None:
    async with serve(tracing=tracing(collector)) as gate:
        await gate.chat("a secret of the customer\nsim: tokens=5")
        await until(lambda: collector.named().keys() >= STEPS, within_s=20)
    everything = "".join(str(span) for span in collector.spans)
    assert "secret" not in everything
    assert "sk-" not in everything


async def test_what_is_not_recorded_passes_the_callers_context_unchanged(
    serve: Serve, collector: Collector, sim: Sim
) -> None:
    body = {"model": "small", "messages": [{"role": "user", "content": "x\nsim: tokens=5"}]}
    sent = {"traceparent": UNSAMPLED, "tracestate": "vendor=1"}
    async with serve(tracing=tracing(collector)) as gate:
        await gate.post("/v1/chat/completions", body, sent)
        assert arrived(sim) == UNSAMPLED
        await gate.post("/v1/chat/completions", body, {"traceparent": "garbage"})
        assert arrived(sim) != "garbage"
    async with serve(tracing=tracing(collector, sample_ratio="0.0")) as gate:
        await gate.chat("x\nsim: tokens=5")
        assert arrived(sim) is None
    async with serve(tracing=tracing(collector, sample_ratio="0.0", follow_callers=False)) as gate:
        await gate.post("/v1/chat/completions", body, {"traceparent": CALLER})
        assert arrived(sim) == CALLER
    assert "POST /v1/chat/completions" in collector.named()  # the one with garbage
    assert TRACE not in {span.trace_id for span in collector.spans}


async def test_a_gate_without_traces_passes_the_callers_context_and_calls_no_collector(
    serve: Serve, sim: Sim
) -> None:
    async with serve() as gate:
        body = {"model": "small", "messages": [{"role": "user", "content": "x\nsim: tokens=5"}]}
        await gate.post("/v1/chat/completions", body, {"traceparent": CALLER, "tracestate": "a=1"})
        assert arrived(sim) == CALLER
        assert arrived(sim, "tracestate") == "a=1"


async def test_a_collector_that_is_away_costs_no_request(serve: Serve) -> None:
    [port] = free_ports(1)
    away = {"endpoint": f"http://127.0.0.1:{port}/v1/traces", "timeout_ms": 500, "queue_spans": 100}
    async with serve(tracing=away) as gate:
        for _ in range(30):
            assert (await gate.chat("x\nsim: tokens=5")).status_code == 200

        def dropped() -> float:
            family = gate.service.snapshot()["creditgate_trace_spans_dropped_total"]
            count: float = family["samples"][0][1]
            return count

        assert dropped() >= 50  # the queue took 100 of 210 at most
        await until(lambda: dropped() >= 150, within_s=20)
