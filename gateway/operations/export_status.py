"""How delivery is: lag of the required store and of every sink, exporters, dead letters, time that is left."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.domain.delivery import START, Place
from gateway.domain.stores import StoreMissing
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
    unreadable:       why the store cannot be read; its lag is then what the ledger has not had acknowledged, and
                      of the other sinks nothing is known
    """

    recorded_store: str | None
    exporters: Sequence[ExporterStatus]
    sinks: Sequence[SinkStatus]
    oldest_ms: int | None
    undelivered: int
    full_in_hours: float | None
    unreadable: str | None = None

    @property
    def well(self) -> bool:
        """Whether somebody exports, the store answers, and nothing was given up."""
        given_up = any(sink.dead_letters for sink in self.sinks)
        return bool(self.exporters) and self.unreadable is None and not given_up


async def export_status(backend: Backend, sample_s: float = 1.0) -> ExportStatus:
    """Look twice, `sample_s` apart, so that growth shows. Raises LedgerUnavailable."""
    outbox, configured = backend.outbox, backend.configured
    unreadable = None
    first = await outbox.heads()
    before = await _stored(backend, first)
    await asyncio.sleep(sample_s)
    heads = await outbox.heads()
    known = await backend.list_exporters()
    now_ms = await backend.ledger_time_ms()
    try:
        stored = await asyncio.to_thread(backend.store.cursors)
        sinks = await asyncio.to_thread(_sinks, backend, heads, stored)
    except StoreMissing as missing:
        unreadable, stored = str(missing), _acknowledged(heads)
        name = known.store_name or configured.required_sink
        sinks = [SinkStatus(name, True, sum(_lags(heads, stored)), 0)]
    second = _lags(heads, stored)
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
        full_in_hours=_full_in_hours(
            _lags(first, before), second, configured.max_backlog_events, sample_s
        ),
        unreadable=unreadable,
    )


def status_document(status: ExportStatus, now_ms: int) -> dict[str, Any]:
    """The status as a JSON document. Ages in seconds."""
    oldest_ms = status.oldest_ms
    return {
        "required_store": status.recorded_store,
        "store_unreadable": status.unreadable,
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


def _sinks(
    backend: Backend, heads: Sequence[Shard], stored: Mapping[int, Place]
) -> list[SinkStatus]:
    """Raises StoreMissing."""
    store, configured = backend.store, backend.configured
    dead = store.dead_letter_counts()
    lag = sum(_lags(heads, stored))
    sinks = [SinkStatus(configured.required_sink, True, lag, dead.get("", 0))]
    for name in configured.optional_sinks:
        fed = store.sink_cursors(name)
        lag = sum(_lag(place, fed.get(shard, START)) for shard, place in stored.items())
        sinks.append(SinkStatus(name, False, lag, dead.get(name, 0)))
    return sinks


async def _stored(backend: Backend, heads: Sequence[Shard]) -> Mapping[int, Place]:
    """How far the store is; where it is away, what the ledger has had acknowledged."""
    try:
        return await asyncio.to_thread(backend.store.cursors)
    except StoreMissing:
        return _acknowledged(heads)


def _acknowledged(heads: Sequence[Shard]) -> dict[int, Place]:
    return {shard: head.acked for shard, head in enumerate(heads) if head.acked is not None}


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
