"""What of an event's charge can be refunded."""

import pytest

from gateway.domain.delivery import Place
from gateway.domain.event_rows import row_of
from gateway.domain.events import Event, EventKind
from gateway.exporter.sink import Batch
from gateway.exporter.sinks.sqlite import SqliteSink
from gateway.exporter.sinks.sqlite_reader import SqliteStore
from gateway.operations.refund import NotRefundable, charged_by
from tests.support.stores import sqlite_sink

HOUR_MS = 3_600_000


def event(kind: EventKind, outcome: str, amount: int, seq: int = 0) -> Event:
    return Event(kind, f"r1:{outcome}", 0, 1, seq, 1000, "acme", amount, 0)


async def stored(sink: SqliteSink, *events: Event) -> SqliteStore:
    await sink.open()
    await sink.write(Batch([row_of(event) for event in events], {0: Place(1, len(events) - 1)}))
    await sink.close()
    return SqliteStore.at(sink.path)


@pytest.fixture
def sink(tmp_path_factory: pytest.TempPathFactory) -> SqliteSink:
    return sqlite_sink(tmp_path_factory.mktemp("store") / "events.db")


async def test_a_settle_charged_its_amount(sink: SqliteSink) -> None:
    settle = event("settle", "settled", 70)
    with await stored(sink, settle) as store:
        assert charged_by(settle, store, 1000) == 70


async def test_an_expiry_waits_for_the_late_settle_that_can_still_come(sink: SqliteSink) -> None:
    expire = event("expire", "expired", 70)
    with await stored(sink, expire) as store:
        with pytest.raises(NotRefundable, match="hour"):
            charged_by(expire, store, 1000 + HOUR_MS - 1)
        assert charged_by(expire, store, 1000 + HOUR_MS) == 70


@pytest.mark.parametrize(("late", "charged"), [(-30, 40), (20, 70)])
async def test_an_expiry_charged_less_what_its_late_settle_gave_back(
    sink: SqliteSink, late: int, charged: int
) -> None:
    expire = event("expire", "expired", 70)
    with await stored(sink, expire, event("settle_late", "settled_late", late, 1)) as store:
        assert charged_by(expire, store, 1000) == charged


@pytest.mark.parametrize(
    ("kind", "amount"), [("grant", 5), ("release", 0), ("settle_late", -5), ("settle", 0)]
)
async def test_what_charged_nothing_is_not_refunded(
    sink: SqliteSink, kind: EventKind, amount: int
) -> None:
    nothing = event(kind, "x", amount)
    with await stored(sink, nothing) as store, pytest.raises(NotRefundable, match="nothing"):
        charged_by(nothing, store, 1000 + HOUR_MS)
