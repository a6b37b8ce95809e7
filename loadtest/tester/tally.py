"""What one sending process counts, and how counts of several add up.

Invariants: every request that was due in the measured time is in exactly one of good, refused and
error. A refusal is a complete response with 402 or 429: the gate did its work. An answer that timed
out counts as an error and, with the time waited, among the latencies: giving up must not
make a percentile better. Other errors have no latency: failing fast must not either.
"""

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final, Literal

from loadtest.generator import Answer
from loadtest.tester.histogram import Histogram

Kind = Literal["good", "refused", "error"]
REFUSALS: Final = frozenset({402, 429})

TOTAL: Final = "total"
FIRST_BYTE: Final = "first_byte"
FRAME_GAP: Final = "frame_gap"
REFUSAL: Final = "refusal"
SEND_LAG: Final = "send_lag"


def kind_of(answer: Answer) -> Kind:
    """What an ended request counts as."""
    if answer.ending != "whole":
        return "error"
    if answer.status in REFUSALS:
        return "refused"
    return "error" if answer.status >= 400 or answer.code else "good"


def name_of(answer: Answer) -> str:
    """What to call a refusal or an error: its status and code, or how it broke."""
    if answer.ending != "whole":
        return {
            "cut": "connection cut",
            "timeout": "timed out",
            "left": "left",
            "unfinished": "unfinished at the end",
        }[answer.ending]
    if answer.status < 400:
        return f"{answer.status}, then an error in the stream: {answer.code}"
    return f"{answer.status} {answer.code}".strip()


@dataclass(slots=True)
class Slice:
    """A stretch of the measured time, by when requests were due."""

    kinds: Counter[Kind] = field(default_factory=Counter)
    total: Histogram = field(default_factory=Histogram)
    first_byte: Histogram = field(default_factory=Histogram)

    def add(self, other: "Slice") -> None:
        """Count all that the other has counted."""
        self.kinds.update(other.kinds)
        self.total.add(other.total)
        self.first_byte.add(other.first_byte)


@dataclass(slots=True)
class Tally:
    """Counts of one target.

    answered_inside:  good answers and refusals that ended within the measured time
    latencies:        by name, see the constants above
    slices:           by number
    """

    kinds: Counter[Kind] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    answered_inside: int = 0
    latencies: "defaultdict[str, Histogram]" = field(default_factory=lambda: defaultdict(Histogram))
    slices: "defaultdict[int, Slice]" = field(default_factory=lambda: defaultdict(Slice))

    @property
    def ended(self) -> int:
        """All requests that were due."""
        return self.kinds.total()

    def add(self, other: "Tally") -> None:
        """Count all that the other has counted."""
        self.kinds.update(other.kinds)
        self.statuses.update(other.statuses)
        self.refusals.update(other.refusals)
        self.errors.update(other.errors)
        self.answered_inside += other.answered_inside
        for name, histogram in other.latencies.items():
            self.latencies[name].add(histogram)
        for number, part in other.slices.items():
            self.slices[number].add(part)


@dataclass(slots=True)
class Recorder:
    """Turns answers into a tally.

    begin_s, end_s:  the measured time, in `time.monotonic` seconds
    slice_s:         how long a slice is
    """

    begin_s: float
    end_s: float
    slice_s: float
    tally: Tally = field(default_factory=Tally)

    def take(self) -> Tally:
        """What has been counted since the last time."""
        taken, self.tally = self.tally, Tally()
        return taken

    def on_answer(self, answer: Answer) -> None:
        """Count a request that has ended."""
        tally, kind = self.tally, kind_of(answer)
        if kind != "error" and self.begin_s <= answer.ended_s < self.end_s:
            tally.answered_inside += 1
        part = self._slice(answer.intended_s)
        if part is None:
            return
        tally.kinds[kind] += 1
        part.kinds[kind] += 1
        if answer.status:
            tally.statuses[answer.status] += 1
        took_s = answer.ended_s - answer.intended_s
        if kind == "refused":
            tally.refusals[name_of(answer)] += 1
            tally.latencies[REFUSAL].add_s(took_s)
            return
        if kind == "error":
            tally.errors[name_of(answer)] += 1
            if answer.ending not in ("timeout", "unfinished"):
                return
        tally.latencies[TOTAL].add_s(took_s)
        part.total.add_s(took_s)
        first_s = (answer.first_byte_s or answer.ended_s) - answer.intended_s
        tally.latencies[FIRST_BYTE].add_s(first_s)
        part.first_byte.add_s(first_s)
        gaps = tally.latencies[FRAME_GAP] if answer.gaps_s else None
        for gap_s in answer.gaps_s:
            assert gaps is not None
            gaps.add_s(gap_s)

    def on_due(self, late_s: float) -> None:
        """Note how late this process saw that a request was due."""
        if time.monotonic() >= self.begin_s:
            self.tally.latencies[SEND_LAG].add_s(late_s)

    def on_unsent(self, due_s: float, now_s: float) -> None:
        """Count a request that was due and never got a connection."""
        part = self._slice(due_s)
        if part is None:
            return
        self.tally.kinds["error"] += 1
        self.tally.errors["never got a connection"] += 1
        part.kinds["error"] += 1
        self.tally.latencies[TOTAL].add_s(now_s - due_s)
        part.total.add_s(now_s - due_s)

    def _slice(self, intended_s: float) -> Slice | None:
        if not self.begin_s <= intended_s < self.end_s:
            return None
        return self.tally.slices[int((intended_s - self.begin_s) / self.slice_s)]
