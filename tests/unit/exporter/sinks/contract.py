"""What every sink must do. A sink's test file derives from this class and supplies the fixtures.

The fixture `sink` gives a fresh sink that is not open; `stored_ids` says what the receiver
holds now, in any order, each as often as it is there.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import pytest

from gateway.domain.delivery import DeadLetter, Place
from gateway.domain.event_rows import EventRow, row_of, signal_rows
from gateway.domain.events import Event
from gateway.exporter.sink import Batch, Sink

StoredIds = Callable[[], Awaitable[list[str]]]


def make_event(seq: int, shard: int = 0, **changed: object) -> Event:
    """A usage event at a place of its own."""
    event = Event(
        kind="settle",
        event_id=f"r{shard}-{seq}:settled",
        shard=shard,
        epoch=1,
        seq=seq,
        occurred_at_ms=1_700_000_000_000 + seq,
        customer_id="acme",
        amount_nano=700 + seq,
        balance_nano=9_000_000_000_000_000 - seq,
        estimated_amount_nano=1000,
        allocations=((1, 700),),
        usage={"input": 12, "output": 5},
        price_version="p_1",
        facts={"request_id": f"r{shard}-{seq}", "model": "m", "tags": {"team": "x"}},
    )
    return replace(event, **changed)  # type: ignore[arg-type]


def make_row(seq: int, shard: int = 0, **changed: object) -> EventRow:
    """The same as a row."""
    return row_of(make_event(seq, shard, **changed))


def batch_of(
    events: Iterable[Event],
    ends: Mapping[int, Place] | None = None,
    *,
    dead: Sequence[DeadLetter] = (),
) -> Batch:
    """A batch of these events with their signals, as the pump makes it."""
    events = list(events)
    signals = [row for event in events for row in signal_rows(event)]
    return Batch([row_of(event) for event in events], ends or {}, dead, signals=signals)


def make_batch(first: int, end: int, shard: int = 0) -> Batch:
    """Events first … end − 1 of a shard."""
    rows = [make_row(seq, shard) for seq in range(first, end)]
    return Batch(rows, {shard: Place(1, end - 1)})


class SinkContract:
    """Duplicates, partial failure, reconnect, close."""

    keeps_cursors = True
    """False for a sink that is not a store: the required store keeps its progress."""
    recognises_repeats = True
    """False for a receiver that takes a repeat for another event."""

    @pytest.fixture
    def unacceptable(self) -> EventRow | None:
        """A row that this sink must refuse for good; None if it takes everything."""
        return None

    async def test_a_batch_is_stored_whole(self, sink: Sink, stored_ids: StoredIds) -> None:
        await sink.open()
        written = await sink.write(make_batch(0, 50))
        assert (written.stored, written.duplicates, list(written.failed)) == (50, 0, [])
        assert sorted(await stored_ids()) == sorted(e.event_id for e in make_batch(0, 50).rows)

    async def test_a_repeated_batch_is_all_duplicates_and_changes_nothing(
        self, sink: Sink, stored_ids: StoredIds
    ) -> None:
        await sink.open()
        await sink.write(make_batch(0, 5))
        written = await sink.write(make_batch(0, 8))
        if self.recognises_repeats:
            assert (written.stored, written.duplicates, list(written.failed)) == (3, 5, [])
            assert len(await stored_ids()) == 8
        else:
            assert (written.stored, written.duplicates, list(written.failed)) == (8, 0, [])
            assert len(await stored_ids()) == 13

    async def test_after_reopening_it_knows_how_far_it_was(self, sink: Sink) -> None:
        await sink.open()
        await sink.write(make_batch(0, 5, shard=3))
        await sink.write(make_batch(0, 2, shard=1))
        await sink.close()
        known = {3: Place(1, 4), 1: Place(1, 1)}
        assert await sink.open() == (known if self.keeps_cursors else {})

    async def test_a_cursor_never_moves_back(self, sink: Sink) -> None:
        await sink.open()
        await sink.write(make_batch(0, 9))
        await sink.write(make_batch(2, 4))
        assert await sink.open() == ({0: Place(1, 8)} if self.keeps_cursors else {})

    async def test_closing_twice_is_harmless(self, sink: Sink) -> None:
        await sink.open()
        await sink.close()
        await sink.close()

    async def test_an_empty_batch_is_harmless(self, sink: Sink, stored_ids: StoredIds) -> None:
        await sink.open()
        assert (await sink.write(Batch())).stored == 0
        assert await stored_ids() == []

    async def test_one_bad_event_fails_alone_and_holds_the_cursor_back(
        self, sink: Sink, stored_ids: StoredIds, unacceptable: EventRow | None
    ) -> None:
        if unacceptable is None:
            return
        await sink.open()
        good = make_batch(unacceptable.seq + 1, unacceptable.seq + 4)
        written = await sink.write(Batch([*good.rows, unacceptable], good.ends))
        assert written.stored == 3
        ((failure),) = written.failed
        assert failure.row == unacceptable
        assert failure.reason
        assert not failure.retry
        assert unacceptable.event_id not in await stored_ids()
        assert await sink.open() == {}
