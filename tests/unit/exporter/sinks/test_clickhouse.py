"""ClickHouse as a store: the contracts on both servers, and what is its own."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.domain.delivery import Place
from gateway.domain.event_rows import EventRow
from gateway.domain.stores import RowFilter
from gateway.exporter.sink import Batch, SinkUnavailable, StoreTooNew
from gateway.exporter.sinks.clickhouse import ClickHouseSink
from gateway.exporter.sinks.clickhouse_client import ClickHouseClient
from gateway.exporter.sinks.clickhouse_reader import ClickHouseAccess
from gateway.exporter.sinks.clickhouse_schema import MIGRATIONS
from gateway.exporter.sinks.options import ClickHouseOptions
from loadtest.sinks.clickhouse_server import PASSWORD
from tests.support.clickhouse_server import ClickHouseServer, server
from tests.unit.exporter.sinks.contract import (
    SinkContract,
    StoredIds,
    batch_of,
    make_batch,
    make_event,
    make_row,
)
from tests.unit.exporter.sinks.killing import KillContract
from tests.unit.exporter.sinks.reading import ReaderContract
from tests.unit.exporter.sinks.refusals import RefusalContract
from tests.unit.exporter.sinks.summing import UsageContract
from tests.unit.exporter.sinks.viewing import Query, ViewContract

__all__ = ["server"]

MIDNIGHT_MS = 1_700_006_400_000


@pytest.fixture
def options(server: ClickHouseServer) -> ClickHouseOptions:
    return server.options()


@pytest.fixture
async def sink(options: ClickHouseOptions) -> AsyncIterator[ClickHouseSink]:
    sink = ClickHouseSink(options)
    yield sink
    await sink.close()


@pytest.fixture
def access(options: ClickHouseOptions) -> ClickHouseAccess:
    return ClickHouseAccess(options)


@pytest.fixture
def stored_ids(server: ClickHouseServer, options: ClickHouseOptions) -> StoredIds:
    async def read() -> list[str]:
        found = server.ask("SELECT event_id FROM events FINAL", options.database)
        return [line["event_id"] for line in found]

    return read


class TestContract(SinkContract):
    @pytest.fixture
    def unacceptable(self) -> EventRow:
        """ClickHouse would store only the lowest 64 bits."""
        return make_row(0, amount_nano=2**63)


class TestKills(KillContract):
    pass


class TestUsage(UsageContract):
    pass


class TestReader(ReaderContract):
    pass


class TestRefusals(RefusalContract):
    pass


class TestViews(ViewContract):
    @pytest.fixture
    def query(self, server: ClickHouseServer, options: ClickHouseOptions) -> Query:
        return lambda statement: [
            tuple(line.values()) for line in server.ask(statement, options.database)
        ]


# Rows


async def test_rows_come_back_exactly(sink: ClickHouseSink, access: ClickHouseAccess) -> None:
    text = "'a' \"b\" \\ \t\n\r\0 é 退款 😀 \u2028 \x85"
    rows = [
        make_row(0, amount_nano=2**63 - 1, balance_nano=-(2**63), cost_nano=2**53 + 1),
        make_row(1)._replace(customer_id=text, facts='{"a":1.5,"b":"\\u0000"}', livemode=True),
        make_row(2)._replace(livemode=False, model=text, price_version=None),
        make_row(3, kind="grant", facts={}, usage={}, allocations=()),
    ]
    await sink.open()
    assert (await sink.write(Batch(rows))).stored == 4
    with access.open() as store:
        assert list(store.rows(RowFilter())) == rows
        assert list(store.rows(RowFilter(customer_id=text))) == [rows[1]]
    assert await sink.read_beyond({0: Place(1, -1)}, 10) == rows


async def test_rows_of_many_months_and_shards_are_one_batch(
    sink: ClickHouseSink, stored_ids: StoredIds
) -> None:
    rows = [make_row(0, n, occurred_at_ms=MIDNIGHT_MS + n * 86_400_000) for n in range(600)]
    await sink.open()
    written = await sink.write(Batch(rows, {n: Place(1, 0) for n in range(600)}))
    assert written.stored == 600
    repeated = await sink.write(Batch(rows))
    assert (repeated.stored, repeated.duplicates) == (0, 600)
    beyond = await sink.read_beyond({n: Place(1, -1) for n in range(600)}, 550)
    assert [row.shard for row in beyond] == [*range(550)]
    assert len(await sink.open()) == len(await stored_ids()) == 600


async def test_beyond_missing_numbers_it_still_reads_on(sink: ClickHouseSink) -> None:
    await sink.open()
    await sink.write(Batch([make_row(500)]))
    assert await sink.read_beyond({0: Place(1, 3)}, 10) == [make_row(500)]


# Duplicates


async def test_what_is_new_in_a_batch_of_repeats_is_stored_once(sink: ClickHouseSink) -> None:
    await sink.open()
    written = await sink.write(batch_of([make_event(0), make_event(1), make_event(0)]))
    assert (written.stored, written.duplicates) == (2, 1)


async def test_another_event_at_a_taken_place_is_refused_not_ignored(
    sink: ClickHouseSink,
) -> None:
    await sink.open()
    await sink.write(make_batch(0, 3))
    impostor, elsewhere = make_row(1, event_id="other:settled"), make_row(0, shard=1)
    written = await sink.write(
        Batch([make_row(0), impostor, make_row(3), elsewhere], {0: Place(1, 3)})
    )
    assert (written.stored, written.duplicates) == (1, 0), "no more of its shard"
    ((failure),) = written.failed
    assert (failure.row, failure.reason) == (impostor, "another event has its place")
    assert failure.place_taken
    assert await sink.open() == {0: Place(1, 2)}


async def test_only_what_may_be_there_already_is_asked_for(
    sink: ClickHouseSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    ask = ClickHouseClient.rows

    async def rows(client: ClickHouseClient, statement: str, **more: Any) -> list[dict[str, Any]]:
        asked.append(statement)
        return await ask(client, statement, **more)

    await sink.open()
    await sink.write(make_batch(0, 3))
    monkeypatch.setattr(ClickHouseClient, "rows", rows)
    await sink.write(make_batch(3, 6))
    assert asked == []
    await sink.write(make_batch(0, 3, shard=1))
    assert "shard = 1" in asked[-1]
    assert "shard = 0" not in asked[-1]
    asked.clear()
    await sink.write(make_batch(5, 7))
    assert "shard = 0" in asked[-1]


async def test_an_insert_that_is_repeated_unnoticed_counts_once_and_keeps_its_position(
    sink: ClickHouseSink,
    server: ClickHouseServer,
    options: ClickHouseOptions,
    access: ClickHouseAccess,
) -> None:
    """As after a time-out, when the server carries the first insert out after the second was asked for."""
    await sink.open()
    await sink.write(make_batch(0, 3))
    with access.open() as store:
        before = store.latest(10)
        charged = store.charges_since("acme", 0, 0)
    sink._written[0] = Place(1, -1)  # it believes that nothing is there
    assert (await sink.write(make_batch(0, 3))).stored == 3
    sink._written[0] = Place(1, -1)
    assert (await sink.write(make_batch(0, 2))).stored == 2
    (inserted,) = server.ask("SELECT count() AS rows FROM events", options.database)
    # A new server drops the same insert by its token; the other one is there twice until it is merged.
    assert inserted["rows"] == (8 if server.debian else 5)
    with access.open() as store:
        assert store.latest(10) == before
        assert store.charges_since("acme", 0, 0) == charged
        assert store.shard_contents(0, Place(1, 9)).totals_nano["acme"]["settle"] == 2103


async def test_an_event_that_came_later_to_a_taken_place_does_not_replace_the_first(
    sink: ClickHouseSink, stored_ids: StoredIds
) -> None:
    await sink.open()
    await sink.write(make_batch(0, 1))
    sink._written[0] = Place(1, -1)
    await sink.write(Batch([make_row(0, event_id="other:settled")]))
    assert await stored_ids() == ["r0-0:settled"]


async def test_an_id_at_two_places_is_reported(
    sink: ClickHouseSink, access: ClickHouseAccess
) -> None:
    await sink.open()
    await sink.write(batch_of([make_event(0), make_event(7, event_id="r0-0:settled")]))
    with access.open() as store:
        assert store.contradictions() == ["r0-0:settled is stored at 2 places"]


# Positions


async def test_positions_grow_although_the_clock_goes_back(
    sink: ClickHouseSink, options: ClickHouseOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sink.open()
    await sink.write(make_batch(0, 3))
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns - 10**12)
    await sink.write(make_batch(3, 6))
    other = ClickHouseSink(options)  # another exporter takes over, with a clock that is behind
    await other.open()
    await other.write(make_batch(6, 9))
    await other.close()
    with ClickHouseAccess(options).open() as store:
        assert [found.event.seq for found in store.latest(9)] == [*range(9)]


async def test_what_is_beyond_the_cursor_is_not_in_the_contents_of_a_shard(
    sink: ClickHouseSink, access: ClickHouseAccess
) -> None:
    await sink.open()
    await sink.write(make_batch(0, 3))
    await sink.write(Batch(make_batch(3, 5).rows))  # killed before the cursors
    with access.open() as store:
        contents = store.shard_contents(0, Place(1, 9))
    assert contents.cursor == Place(1, 2)
    assert contents.totals_nano == {"acme": {"settle": 2103}}
    assert [(span.last_seq, span.count) for span in contents.spans] == [(2, 3)]


# Trouble


async def test_what_was_written_survives_a_killed_server(
    sink: ClickHouseSink, server: ClickHouseServer, stored_ids: StoredIds
) -> None:
    await sink.open()
    await sink.write(make_batch(0, 5))
    server.stop(signal.SIGKILL)
    with pytest.raises(SinkUnavailable, match=server.url):
        await sink.write(make_batch(0, 8))
    with pytest.raises(SinkUnavailable, match="cannot connect"):
        await sink.open()
    server.start()
    assert await sink.open() == {0: Place(1, 4)}
    written = await sink.write(make_batch(0, 8))
    assert (written.stored, written.duplicates) == (3, 5)
    assert len(await stored_ids()) == 8


async def test_a_slow_server_is_unavailable_and_then_has_everything_once(
    server: ClickHouseServer,
) -> None:
    options = server.options(timeout_ms=2000)
    sink = ClickHouseSink(options)
    await sink.open()
    await sink.write(make_batch(0, 3))
    sink._client = ClickHouseClient(server.options(database=options.database, timeout_ms=200))
    sink._client._server = await sink._client.connect()
    server.pause()
    try:
        with pytest.raises(SinkUnavailable, match="no answer within 200 ms"):
            await sink.write(make_batch(3, 6))
    finally:
        server.go_on()
    await sink.open()
    await sink.write(make_batch(3, 6))
    found = server.ask("SELECT count() AS rows FROM events FINAL", options.database)
    assert found == [{"rows": 6}]
    await sink.close()


async def test_writing_unopened_is_unavailable(sink: ClickHouseSink) -> None:
    with pytest.raises(SinkUnavailable, match="not open"):
        await sink.write(make_batch(0, 1))


async def test_a_store_of_a_newer_release_is_left_alone(
    sink: ClickHouseSink, server: ClickHouseServer, options: ClickHouseOptions
) -> None:
    await sink.open()
    newer = f"INSERT INTO migrations VALUES ({len(MIGRATIONS) + 1}, 0)"
    server.ask(newer, options.database)
    with pytest.raises(StoreTooNew, match="this release knows"):
        await sink.open()


async def test_two_exporters_may_start_at_once(
    options: ClickHouseOptions, stored_ids: StoredIds
) -> None:
    sinks = [ClickHouseSink(options) for _ in range(2)]
    await asyncio.gather(*(sink.open() for sink in sinks))
    await asyncio.gather(
        *(sink.write(make_batch(0, 20, shard)) for shard, sink in enumerate(sinks))
    )
    assert sinks[0].store_id == sinks[1].store_id
    assert await sinks[0].open() == {0: Place(1, 19), 1: Place(1, 19)}
    assert len(await stored_ids()) == 40
    for sink in sinks:
        await sink.close()


async def test_a_user_that_is_not_accepted_is_named_without_the_password(
    server: ClickHouseServer,
) -> None:
    if not server.debian:
        return  # the stand-in has no users
    options = server.options(user="gate", password=PASSWORD)
    sink = ClickHouseSink(options)
    await sink.open()
    assert ClickHouseAccess(options).cursors() == {}
    await sink.close()
    wrong = ClickHouseSink(server.options(user="gate", password="hunter2"))
    with pytest.raises(SinkUnavailable, match="user 'gate' or its password is not accepted") as it:
        await wrong.open()
    assert "hunter2" not in f"{it.value} {wrong!r}"


async def test_a_right_that_is_missing_is_named(server: ClickHouseServer) -> None:
    if not server.debian:
        return  # the stand-in has no users
    sink = ClickHouseSink(server.options(user="reader"))
    with pytest.raises(SinkUnavailable, match=r"user 'reader' lacks a right: .*readonly"):
        await sink.open()
