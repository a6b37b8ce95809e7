"""Spans of traces, W3C trace context, and the bounded queue in which spans wait for their export.

Nothing here knows OpenTelemetry's SDK: `otlp.py` sends what the queue gives it. A span that finds the
queue full is dropped and counted; no request ever waits for a trace.
"""

import asyncio
import random
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import structlog

from gateway.telemetry.logs import failure
from gateway.telemetry.metrics import Counter

log = structlog.get_logger("traces")

EXPORT_EVERY_S: Final = 1.0
BATCH_MOST: Final = 512
_CLOSE_WITHIN_S: Final = 0.5
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_LOW_64_BITS: Final = (1 << 64) - 1

Attribute = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The caller's span, from its `traceparent` header. sampled: the caller records its part."""

    trace_id: int
    span_id: int
    sampled: bool


@dataclass(frozen=True, slots=True)
class Span:
    """One step of a request that has ended. Times in nanoseconds since 1970; error: "" is success."""

    name: str
    kind: Literal["server", "client", "internal"]
    trace_id: int
    span_id: int
    parent_id: int | None
    started_ns: int
    ended_ns: int
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    error: str = ""


Export = Callable[[Sequence[Span]], None]
"""Sends spans; blocks, and is called in a thread. Raises whatever it likes."""


def read_traceparent(value: str | None) -> TraceContext | None:
    """Read a `traceparent` header (W3C Trace Context, level 1); None for one that must be ignored."""
    found = _TRACEPARENT.fullmatch(value) if value is not None else None
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    if version == "ff" or (version == "00" and more):
        return None
    trace_id, span_id = int(trace, 16), int(span, 16)
    if not trace_id or not span_id:
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & 1))


def write_traceparent(trace_id: int, span_id: int) -> str:
    """Return the `traceparent` of a sampled span."""
    return f"00-{trace_id:032x}-{span_id:016x}-01"


def new_trace_id() -> int:
    """Return 128 random bits, never 0."""
    return random.getrandbits(128) or 1


def new_span_id() -> int:
    """Return 64 random bits, never 0."""
    return random.getrandbits(64) or 1


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which traces are recorded.

    ratio:          share of traces, decided by the trace id, so that every service decides alike
    follow_callers: record what the caller records, and nothing of what it does not
    """

    ratio: float
    follow_callers: bool = True

    def records(self, caller: TraceContext | None, trace_id: int) -> bool:
        """Whether this trace is recorded."""
        if caller is not None and self.follow_callers:
            return caller.sampled
        return (trace_id & _LOW_64_BITS) < self.ratio * (1 << 64)


class SpanQueue:
    """Spans on their way out. `run` exports; `close` exports the rest, for a short while."""

    def __init__(self, export: Export, most: int, dropped: Counter) -> None:
        self._export = export
        self._most = most
        self._dropped = dropped
        self._waiting: deque[Span] = deque()
        self._failing = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, spans: Sequence[Span]) -> None:
        """Take spans that have ended; drops all of them if there is no room for all."""
        if len(self._waiting) + len(spans) > self._most:
            self._dropped.inc(len(spans))
        else:
            self._waiting.extend(spans)

    async def run(self) -> None:
        """Export every second, without end."""
        while True:
            await asyncio.sleep(EXPORT_EVERY_S)
            await self._flush()

    async def close(self) -> None:
        """Export what waits; what does not leave in time is dropped."""
        try:
            async with asyncio.timeout(_CLOSE_WITHIN_S):
                await self._flush()
        except TimeoutError:
            self._dropped.inc(len(self._waiting))
            self._waiting.clear()

    async def _flush(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH_MOST, len(self._waiting)))]
            try:
                await asyncio.to_thread(self._export, batch)
            except Exception as error:
                self._dropped.inc(len(batch))
                if not self._failing:
                    log.warning("traces_not_taken", **failure(error))
                self._failing = True
            else:
                self._failing = False
