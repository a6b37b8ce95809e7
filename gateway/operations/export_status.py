"""How delivery is: lag of the required store and of every sink, exporters, dead letters, time that is left."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.domain.delivery import START, Place
from gateway.ledger.codec.shard_records import Shard
from gateway.operations.backend import Backend

HOUR_S: Final = 3600


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """One sink. lag_events: in the ledger (of the required store) or in the required store (of the others),
    and not yet in the sink"""

    name: str
    required: bool
    lag_events: int
    dead_letters: int


@dataclass(frozen=True, slots=True)
class ExporterStatus:
    """One exporter that has renewed its lease lately. expires_in_ms: unless it renews again"""

    name: str
    shards: int
    expires_in_ms: int


@dataclass(frozen=True, slots=True)
class ExportStatus:
    """Delivery as a whole.

    recorded_store:   name of the required store that the ledger has recorded; None before the first export
    oldest_ms:        when the oldest undelivered event occurred; None where there is none
    undelivered:      events in the outbox of the fullest shard that the store does not have
    full_in_hours:    until that shard refuses requests at the present rate; None while it does not grow
    """

    recorded_store: str | None
    exporters: Sequence[ExporterStatus]
    sinks: Sequence[SinkStatus]
    oldest_ms: int | None
    undelivered: int
    full_in_hours: float | None

    @property
    def well(self) -> bool:
        """Whether somebody exports and nothing was given up."""
        return bool(self.exporters) and not any(sink.dead_letters for sink in self.sinks)


async def export_status(backend: Backend, sample_s: float = 1.0) -> ExportStatus:
    """Look twice, `sample_s` apart, so that growth shows. Raises LedgerUnavailable, StoreMissing."""
    outbox, configured = backend.outbox, backend.configured
    first = await _undelivered(backend)
    await asyncio.sleep(sample_s)
    heads = await outbox.heads()
    stored = await asyncio.to_thread(backend.store.cursors)
    second = _lags(heads, stored)
    known = await backend.list_exporters()
    now_ms = await backend.ledger_time_ms()
    dead = await asyncio.to_thread(backend.store.dead_letter_counts)
    sinks = [SinkStatus(configured.required_sink, True, sum(second), dead.get("", 0))]
    for name in configured.optional_sinks:
        cursors = await asyncio.to_thread(backend.store.sink_cursors, name)
        lag = sum(_lag(place, cursors.get(shard, START)) for shard, place in stored.items())
        sinks.append(SinkStatus(name, False, lag, dead.get(name, 0)))
    held = list(known.owners.values())
    return ExportStatus(
        recorded_store=known.store_name,
        exporters=[
            ExporterStatus(name, held.count(name), until_ms - now_ms)
            for name, until_ms in sorted(known.expires_at_ms.items())
            if until_ms > now_ms
        ],
        sinks=sinks,
        oldest_ms=await outbox.oldest_ms(stored),
        undelivered=max(second, default=0),
        full_in_hours=_full_in_hours(first, second, configured.max_backlog_events, sample_s),
    )


def status_document(status: ExportStatus, now_ms: int) -> dict[str, Any]:
    """The status as a JSON document. Ages in seconds."""
    oldest_ms = status.oldest_ms
    return {
        "required_store": status.recorded_store,
        "oldest_undelivered_s": None if oldest_ms is None else max(0, now_ms - oldest_ms) / 1000,
        "undelivered_in_fullest_shard": status.undelivered,
        "full_in_hours": status.full_in_hours,
        "exporters": [
            {"name": each.name, "shards": each.shards, "expires_in_ms": each.expires_in_ms}
            for each in status.exporters
        ],
        "sinks": [
            {
                "name": sink.name,
                "required": sink.required,
                "lag_events": sink.lag_events,
                "dead_letters": sink.dead_letters,
            }
            for sink in status.sinks
        ],
    }


async def _undelivered(backend: Backend) -> list[int]:
    heads = await backend.outbox.heads()
    return _lags(heads, await asyncio.to_thread(backend.store.cursors))


def _lags(heads: Sequence[Shard], stored: Mapping[int, Place]) -> list[int]:
    return [_lag(head.last, stored.get(shard, START)) for shard, head in enumerate(heads)]


def _lag(last: Place, done: Place) -> int:
    since = done.seq if done.epoch == last.epoch else -1
    return max(0, last.seq - since)


def _full_in_hours(
    first: Sequence[int], second: Sequence[int], most: int, seconds: float
) -> float | None:
    """When the first shard is full if every shard goes on growing as it did between two looks."""
    hours = [
        max(0, most - now) / ((now - before) / seconds) / HOUR_S
        for before, now in zip(first, second, strict=True)
        if now > before
    ]
    return round(min(hours), 2) if hours else None
