"""The contract of sinks that keep no cursors: the required store keeps them, and the receiver knows repeats."""

from gateway.exporter.sink import Sink
from tests.unit.exporter.sinks.contract import SinkContract, StoredIds, make_batch


class CursorlessContract(SinkContract):
    """`SinkContract` with what it says of cursors replaced."""

    async def test_after_reopening_it_knows_how_far_it_was(self, sink: Sink) -> None:
        await sink.open()
        await sink.write(make_batch(0, 5, shard=3))
        await sink.close()
        assert await sink.open() == {}

    async def test_a_cursor_never_moves_back(self, sink: Sink) -> None:
        await sink.open()
        await sink.write(make_batch(0, 9))
        assert await sink.open() == {}

    async def test_a_batch_that_overlaps_after_a_restart_adds_what_is_new(
        self, sink: Sink, stored_ids: StoredIds
    ) -> None:
        await sink.open()
        await sink.write(make_batch(0, 9))
        await sink.close()
        await sink.open()
        written = await sink.write(make_batch(2, 14))
        assert (written.stored, written.duplicates) == (5, 7)
        ids = await stored_ids()
        assert len(ids) == len(set(ids)) == 14
