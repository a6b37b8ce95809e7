"""What a load gave: how each request ended, and the sums."""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from loadtest.requests import Shot

Ending = Literal["whole", "cut", "left", "timeout", "unfinished"]
"""whole: answered to the end · cut: the connection broke · left: this client went away on
purpose · timeout: no end in time · unfinished: the load was over first."""


@dataclass(slots=True)
class Outcome:
    """How one request ended. Times are `time.monotonic` seconds; status 0 is none."""

    request_id: str
    status: int
    ending: Ending
    body_bytes: int
    started_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """One request that has ended, for whoever watches the load. Times are `time.monotonic` seconds.

    intended_s:    when it was due (closed loop: when it was sent)
    sent_s:        when its first byte went out
    first_byte_s:  when the first byte of the answer came; 0 is never
    status:        0 is none
    code:          what an error calls itself, in its body or in the stream
    gaps_s:        between the frames of a stream, in order
    """

    shot: Shot
    ending: Ending
    status: int
    code: str
    intended_s: float
    sent_s: float
    first_byte_s: float
    ended_s: float
    gaps_s: list[float]


@dataclass(slots=True)
class Result:
    """Result of a load. Latencies in seconds, only of complete responses with status below 400.

    unsent:   were due and never got a connection
    """

    seconds: float = 0.0
    sent: int = 0
    unsent: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    refusals: Counter[tuple[int, str]] = field(default_factory=Counter)
    connect_failures: int = 0
    body_bytes: int = 0
    first_byte_s: "array[float]" = field(default_factory=lambda: array("d"))
    total_s: "array[float]" = field(default_factory=lambda: array("d"))
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def good(self) -> int:
        """Complete responses with status below 400."""
        return len(self.total_s)

    @property
    def per_second(self) -> float:
        """Good answers a second."""
        return self.good / self.seconds if self.seconds else 0.0


def percentile(values: "array[float]", share: float) -> float:
    """The value below which this share of the values lies; NaN when there are none."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
