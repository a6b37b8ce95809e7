"""Aggregates usage into meter events: one for each customer, meter and window of time.

Invariants: which events a meter event sums up depends on their order in the outbox and their times alone, not on
how they came in batches; so it is the same after a restart. Its identifier names its first event. A shard has
one open window: an event whose time is before that (the ledger's clock was set back) counts in it, too.

What is open is in memory only. `boundary` is before its first event: a feeder that starts there after a restart
gives the same meter events again, with the same identifiers.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.domain.delivery import Place
from gateway.domain.event_rows import EventRow


@dataclass(slots=True)
class MeterEvent:
    """What Stripe is sent. customer: Stripe's id; at_ms: time of its first event; last: place of its last"""

    identifier: str
    meter: str
    customer: str
    at_ms: int
    first: EventRow
    last: Place
    value: int = 0
    count: int = 0


@dataclass(slots=True)
class ShardWindows:
    """One shard's windows.

    begins, fed: the place before the last batch's first event, and that of the last event taken
    boundary:    everything up to it is in meter events of `closed`, or was sent
    closed:      meter events to be sent, by identifier
    """

    window_ms: int
    begins: Place
    fed: Place
    boundary: Place
    closed: dict[str, MeterEvent] = field(default_factory=dict)
    _open: dict[tuple[str, str], MeterEvent] = field(default_factory=dict)
    _window: int = -1
    _high_ms: int = 0

    def continues(self, begins: Place) -> bool:
        """Whether a batch that begins here follows the last one, or is the last one again."""
        return begins in (self.fed, self.begins)

    def take(self, row: EventRow, customer: str, values: Mapping[str, int]) -> None:
        """Count an event, the next one of its shard. values: meter → quantity; empty if it is not billed"""
        if values:
            self._high_ms = max(self._high_ms, row.occurred_at_ms)
            window = self._high_ms // self.window_ms
            if window != self._window:
                self.close()
                self._window = window
            for meter, value in values.items():
                event = self._open.get((customer, meter))
                if event is None:
                    event = self._open[customer, meter] = MeterEvent(
                        _identifier(row, customer, meter),
                        meter,
                        customer,
                        self._high_ms,
                        row,
                        row.place,
                    )
                event.value += value
                event.count += 1
                event.last = row.place
        self.feed(row.place)

    def feed(self, place: Place) -> None:
        """Everything up to this place has been taken."""
        self.fed = max(self.fed, place)
        if not self._open:
            self.boundary = self.fed

    def ended(self, now_ms: int) -> bool:
        """Whether the open window is over by this time."""
        return (self._window + 1) * self.window_ms <= now_ms

    def close(self) -> None:
        """Close the open window."""
        for event in self._open.values():
            if event.value:
                self.closed[event.identifier] = event
        self._open = {}
        self.boundary = self.fed


def _identifier(first: EventRow, customer: str, meter: str) -> str:
    """At most 100 characters, permanent for this first event, customer and meter."""
    named = "\n".join((first.event_id, customer, meter)).encode()
    place = f"{first.shard}-{first.epoch}-{first.seq}"
    return f"creditgate-{place}-{hashlib.sha256(named).hexdigest()[:32]}"
