"""The page *Now*: what all gates do at this moment, and what the last hour, day and month came to."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.admin.auth.guard import Session, require
from gateway.admin.auth.identity import signed_in_still
from gateway.admin.console import text
from gateway.admin.console.charts import Drawn, Frame, Look, Series, line_chart
from gateway.admin.console.feed import Feed, GateNow, Sample
from gateway.admin.console.rendering import PREFIX, fragment, page
from gateway.admin.console.sums import PastSums, past_sums
from gateway.admin.context import context_of
from gateway.domain.modes import Modes
from gateway.domain.money import NANO_PER_CREDIT
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.operations.backend import Backend
from gateway.operations.gates import gate_status
from gateway.operations.modes import show_modes

router = APIRouter(prefix=PREFIX, include_in_schema=False)
Viewer = Annotated[Session, Depends(require("overview.read"))]

PING_S: Final = 15.0
"""A stream says something at least so often, so that proxies keep it open."""
ASKED_EVERY_S: Final = 5.0
"""How often the sign-in of a stream that goes on is checked."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Refusals of one reason in the kept samples."""

    reason: str
    count: float
    per_s: float


@dataclass(frozen=True, slots=True)
class NowView:
    """The page. modes: None while the ledger is away"""

    sample: Sample
    figures: Mapping[str, str]
    rows: "Sequence[GateRow]"
    reasons: Sequence[Reason]
    minutes: int
    past: PastSums
    history: str
    requests: Drawn | None
    spend: Drawn | None
    latency: Drawn | None
    modes: Modes | None
    section: str = "now"


@router.get("/")
async def show(request: Request, session: Viewer) -> Response:
    """The page; it is complete without the stream."""
    feed = feed_of(request)
    sample = await feed.latest()
    past = await past_sums(request)
    points = [_point(each) for each in feed.samples]
    view = NowView(
        sample,
        _figures(feed.smoothed()),
        gate_rows(sample),
        _reasons(feed),
        _minutes(feed),
        past,
        _json(points),
        _chart(feed, [("allowed", ""), ("refused", "two")]),
        _chart(feed, [("spend", "")]),
        _chart(feed, [("p50", ""), ("p99", "two")]),
        await _modes(session.backend),
    )
    return page(request, session, "now.html", view)


async def _modes(backend: Backend) -> Modes | None:
    """The modes in force; None while the ledger is away."""
    try:
        return await show_modes(backend)
    except LedgerUnavailable:
        return None


@router.get("/now/stream")
async def stream(request: Request, _: Viewer) -> Response:
    """Server-sent events: one sample every two seconds, until the process drains or the sign-in ends."""

    async def may_go_on() -> bool:
        try:
            return await signed_in_still(context_of(request), request)
        except LedgerUnavailable:
            return True  # the page says that the ledger is away

    return StreamingResponse(
        _events(feed_of(request), context_of(request).stopping, may_go_on),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


def feed_of(request: Request) -> Feed:
    """The feed of this application, shared by all who watch."""
    state = request.app.state
    feed: Feed | None = getattr(state, "console_feed", None)
    if feed is None:
        context = context_of(request)
        feed = state.console_feed = Feed(context.backend, context.stopping)
    return feed


async def _events(
    feed: Feed, stopping: asyncio.Event, may_go_on: Callable[[], Awaitable[bool]]
) -> AsyncIterator[str]:
    asked_at = time.monotonic()
    yield "retry: 2000\n\n"
    following = feed.follow()
    stopped = asyncio.create_task(stopping.wait())
    coming: asyncio.Future[Sample] = asyncio.ensure_future(anext(following))
    try:
        while not stopped.done():
            if time.monotonic() - asked_at >= ASKED_EVERY_S:
                asked_at = time.monotonic()
                if not await may_go_on():
                    return
            both: set[asyncio.Future[Any]] = {coming, stopped}
            await asyncio.wait(both, timeout=PING_S, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                yield ": still here\n\n"
                continue
            yield f"event: now\ndata: {_message(feed, coming.result())}\n\n"
            coming = asyncio.ensure_future(anext(following))
    finally:
        for task in (stopped, coming):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await task


def _message(feed: Feed, sample: Sample) -> str:
    return orjson.dumps(
        {
            "figures": _figures(feed.smoothed()),
            "point": _point(sample),
            "html": {
                "gates": fragment("parts/gates.html", gates=gate_rows(sample)),
                "reasons": fragment(
                    "parts/reasons.html", reasons=_reasons(feed), minutes=_minutes(feed)
                ),
            },
        }
    ).decode()


def _figures(sample: Sample) -> dict[str, str]:
    """What the tiles show, by the id of its place."""
    rates, present = sample.rates, sample.present
    known = sample.measured
    decided = rates.allowed_per_s + rates.refused_per_s
    share = 100 * rates.refused_per_s / decided if decided else 0.0
    spend = rates.charged_nano_per_s / NANO_PER_CREDIT
    ready = sum(not gate.report.why_not for gate in present)
    return {
        "f-requests": text.rate(decided if known else None),
        "f-refused": text.rate(rates.refused_per_s if known else None),
        "f-refused-share": f"{share:.1f} % of requests",
        "f-spend": text.rounded(spend) if known else "–",
        "f-spend-hour": f"{text.rounded(spend * 3600)} an hour" if known else "credits",
        "f-held": text.rounded(sample.held_nano / NANO_PER_CREDIT),
        "f-holds": f"{text.count(sample.holds_open)} open hold{'' if sample.holds_open == 1 else 's'}",
        "f-flight": f"{text.count(sample.in_flight)} requests running",
        "f-latency": text.milliseconds(rates.latency_ms(0.5)),
        "f-latency-99": f"99 % within {text.milliseconds(rates.latency_ms(0.99))}",
        "f-lag": text.count(sample.lag_events),
        "f-lag-age": f"oldest {text.duration(sample.lag_s)}" if sample.lag_events else "all stored",
        "f-gates": f"{ready} of {len(present)}",
    }


def _point(sample: Sample) -> dict[str, float | None]:
    rates, known = sample.rates, sample.measured
    return {
        "t": float(sample.at_ms),
        "allowed": rates.allowed_per_s if known else None,
        "refused": rates.refused_per_s if known else None,
        "spend": rates.charged_nano_per_s / NANO_PER_CREDIT if known else None,
        "p50": rates.latency_ms(0.5),
        "p99": rates.latency_ms(0.99),
    }


def _reasons(feed: Feed) -> list[Reason]:
    now = feed.samples[-1].rates.denied_per_s if feed.samples else {}
    return [Reason(reason, count, now.get(reason, 0.0)) for reason, count in feed.refused().items()]


def _minutes(feed: Feed) -> int:
    samples = feed.samples
    return max(1, round((samples[-1].at_ms - samples[0].at_ms) / 60_000)) if samples else 1


def _chart(feed: Feed, names: Sequence[tuple[str, Look]]) -> Drawn | None:
    points = [_point(sample) for sample in feed.samples]
    series = [
        Series([(p["t"] or 0.0, value) for p in points if (value := p[name]) is not None], look)
        for name, look in names
    ]
    return line_chart(series, Frame(text.rate, height=190, width=560))


@dataclass(frozen=True, slots=True)
class GateRow:
    """One gate in the table."""

    gate: GateNow
    status: str
    tone: str


_TONES: Final = {"ready": "ok", "degraded": "warn", "not ready": "bad", "gone": "bad"}


def gate_rows(sample: Sample) -> list[GateRow]:
    """Gates with their status."""
    rows = []
    for gate in sample.gates:
        status = gate_status(gate.report, sample.at_ms)
        rows.append(GateRow(gate, status, _TONES[status]))
    return rows


def _json(value: object) -> str:
    """JSON that cannot end the element that it is in."""
    return json.dumps(value).replace("<", "\\u003c")
