"""What is noted of a request for its trace: when each step began and ended."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.dialects.base import AnswerFacts
from gateway.telemetry.spans import (
    Sampling,
    new_span_id,
    new_trace_id,
    read_traceparent,
    write_traceparent,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step; times by the monotonic clock, in seconds. error: the name of what it raised"""

    name: str
    span_id: int
    started_at: float
    ended_at: float
    error: str = ""


class RequestTrace:
    """The trace of one request.

    span_id:      of the request itself
    parent_id:    the caller's span; None where the trace begins here
    sampled:      whether it is recorded
    upstream_id:  of the span that the upstream sees as its parent
    answer:       what the response has shown; None until one is relayed
    """

    __slots__ = (
        "_sent", "answer", "parent_id", "sampled", "span_id", "steps", "trace_id",
        "upstream_id",
    )  # fmt: skip

    def __init__(self, sent: str | None, sampling: Sampling) -> None:
        """sent: the caller's `traceparent`"""
        caller = read_traceparent(sent)
        self.trace_id = caller.trace_id if caller else new_trace_id()
        self.parent_id = caller.span_id if caller else None
        self.sampled = sampling.records(caller, self.trace_id)
        self._sent = sent if caller else None
        self.span_id = self.upstream_id = 0
        if self.sampled:
            self.span_id, self.upstream_id = new_span_id(), new_span_id()
        self.steps: list[Step] = []
        self.answer: Callable[[], AnswerFacts] | None = None

    def step(self, name: str, started_at: float, error: BaseException | None = None) -> None:
        """Note a step that ends now."""
        if self.sampled:
            span_id = self.upstream_id if name == "upstream" else new_span_id()
            failed = "" if error is None else type(error).__name__
            self.steps.append(Step(name, span_id, started_at, time.monotonic(), failed))

    @property
    def forwarded(self) -> bytes:
        """The encoded field for the upstream: a child of ours if recorded, else what the caller sent."""
        if self.sampled:
            return (
                b"traceparent: %b\r\n" % write_traceparent(self.trace_id, self.upstream_id).encode()
            )
        return b"" if self._sent is None else b"traceparent: %b\r\n" % self._sent.encode()
