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
    facts = {"request_id": "r1"}
    return Event(kind, f"r1:{outcome}", 0, 1, seq, 1000, "acme", amount, 0, facts=facts)


def rerated(outcome: str, amount: int, seq: int) -> Event:
    """A re-rate of that event."""
    facts = {"request_id": "r1", "corrects": f"r1:{outcome}"}
    name = f"rerate:r1:{outcome}:p_{seq}"
    return Event("adjust", name, 0, 1, seq, 2000, "acme", amount, 0, facts=facts)


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


@pytest.mark.parametrize(
    ("rerates", "left"), [([30], 40), ([30, -10], 50), ([70], 0), ([80], 0), ([-20], 70)]
)
async def test_what_a_rerate_has_given_back_is_not_refunded_again(
    sink: SqliteSink, rerates: list[int], left: int
) -> None:
    settle = event("settle", "settled", 70)
    given = [rerated("settled", nano, seq) for seq, nano in enumerate(rerates, 1)]
    with await stored(sink, settle, *given) as store:
        assert charged_by(settle, store, 1000) == left


@pytest.mark.parametrize(
    ("rerate", "of_expiry", "of_late"), [(0, 70, 20), (50, 20, 20), (75, 0, 15), (90, 0, 0)]
)
async def test_a_rerate_of_an_expiry_with_a_late_settle_counts_once(
    sink: SqliteSink, rerate: int, of_expiry: int, of_late: int
) -> None:
    expire, late = event("expire", "expired", 70), event("settle_late", "settled_late", 20, 1)
    with await stored(sink, expire, late, rerated("settled_late", rerate, 2)) as store:
        assert charged_by(expire, store, 1000) == of_expiry
        assert charged_by(late, store, 1000) == of_late
