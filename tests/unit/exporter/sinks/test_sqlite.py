"""The embedded store: the sink contract, and what is its own."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.delivery import Anomaly, DeadLetter, Place
from gateway.domain.events import CHANGE_KINDS
from gateway.domain.history import PastUse
from gateway.domain.stores import ChangeFilter, RowFilter, StoreAccess
from gateway.exporter.sink import Batch, SinkUnavailable
from gateway.exporter.sinks import postgres_queries, postgres_schema
from gateway.exporter.sinks.sqlite import SqliteSink
from gateway.exporter.sinks.sqlite_reader import SqliteAccess, SqliteStore
from gateway.exporter.sinks.sqlite_schema import MIGRATIONS, OF_CHANGES
from tests.support.stores import sqlite_access, sqlite_sink
from tests.unit.exporter.sinks.contract import (
    SinkContract,
    StoredIds,
    batch_of,
    make_batch,
    make_event,
    make_row,
)
from tests.unit.exporter.sinks.reading import ReaderContract, closed
from tests.unit.exporter.sinks.refusals import RefusalContract
from tests.unit.exporter.sinks.summing import UsageContract
from tests.unit.exporter.sinks.viewing import Query, ViewContract


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "events.db"


@pytest.fixture
async def sink(path: Path) -> AsyncIterator[SqliteSink]:
    sink = sqlite_sink(path)
    yield sink
    await sink.close()


class TestContract(SinkContract):
    @pytest.fixture
    def stored_ids(self, path: Path) -> StoredIds:
        async def read() -> list[str]:
            with sqlite3.connect(path) as connection:
                return [row[0] for row in connection.execute("SELECT event_id FROM events")]

        return read


class TestRefusals(RefusalContract):
    @pytest.fixture
    def access(self, path: Path) -> StoreAccess:
        return sqlite_access(path)


async def test_a_store_that_an_earlier_release_wrote_last_has_no_refusals(
    sink: SqliteSink, path: Path
) -> None:
    await sink.open()
    await sink.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE refusals")
    with SqliteStore.at(path) as store:
        assert list(store.refusals(None, None)) == []


class TestUsage(UsageContract):
    @pytest.fixture
    def access(self, path: Path) -> SqliteAccess:
        return sqlite_access(path)


class TestReader(ReaderContract):
    @pytest.fixture
    def access(self, path: Path) -> SqliteAccess:
        return sqlite_access(path)


class TestViews(ViewContract):
    @pytest.fixture
    def query(self, path: Path) -> Query:
        def ask(statement: str) -> list[tuple[Any, ...]]:
            with sqlite3.connect(path) as connection:
                return connection.execute(statement).fetchall()

        return ask


async def test_an_event_comes_back_as_it_went_in(sink: SqliteSink, path: Path) -> None:
    await sink.open()
    usage, grant = (
        make_event(0, cost_nano=3),
        make_event(1, kind="grant", event_id="op-1", usage={}, facts={"category": "paid"}),
    )
    await sink.write(batch_of([usage, grant]))
    with SqliteStore.at(path) as store:
        assert [stored.event for stored in store.latest(10)] == [usage, grant]
        assert [stored.event for stored in store.of_request("r0-0")] == [usage]
        found = store.event("op-1")
        assert found is not None
        assert found.event == grant


async def test_what_is_new_in_a_batch_of_repeats_is_stored_once(
    sink: SqliteSink, path: Path
) -> None:
    await sink.open()
    written = await sink.write(batch_of([make_event(0), make_event(1), make_event(0)]))
    assert (written.stored, written.duplicates) == (2, 1)


async def test_another_event_at_a_taken_place_is_refused_not_ignored(sink: SqliteSink) -> None:
    await sink.open()
    await sink.write(make_batch(0, 3))
    impostor, elsewhere = make_row(1, event_id="other:settled"), make_row(0, shard=1)
    written = await sink.write(Batch([make_row(0), impostor, make_row(3), elsewhere]))
    assert (written.stored, written.duplicates) == (1, 0), "no more of its shard"
    assert [(failure.row, failure.reason) for failure in written.failed] == [
        (impostor, "another event has its place")
    ]


async def test_an_id_that_comes_again_from_another_place_is_refused(sink: SqliteSink) -> None:
    await sink.open()
    await sink.write(make_batch(0, 1))
    written = await sink.write(batch_of([make_event(7, event_id="r0-0:settled")]))
    assert [f.reason for f in written.failed] == ["its id is already stored for another place"]


async def test_dead_letters_and_anomalies_are_kept_once(sink: SqliteSink, path: Path) -> None:
    await sink.open()
    letter = DeadLetter(0, 1, 4, None, "unreadable", b"\x00\xff")
    gap = Anomaly("gap", 0, Place(1, 1), Place(1, 4))
    for _ in range(2):
        await sink.write(Batch(dead=[letter], anomalies=[gap]))
    with SqliteStore.at(path) as store:
        assert store.dead_letters() == [letter]
        assert store.anomalies() == [gap]


async def test_a_second_exporter_on_the_same_file_waits_for_the_first(
    sink: SqliteSink, path: Path
) -> None:
    await sink.open()
    other = sqlite_sink(path)
    with pytest.raises(SinkUnavailable, match="an exporter writes to"):
        await other.open()
    await sink.close()
    assert await other.open() == {}
    await other.close()


async def test_a_store_that_cannot_be_written_now_is_unavailable_and_then_goes_on(
    sink: SqliteSink, path: Path
) -> None:
    await sink.open()
    await asyncio.to_thread(path.rename, path.with_suffix(".away"))
    await asyncio.to_thread(path.mkdir)
    with pytest.raises(SinkUnavailable):
        await sink.open()
    await asyncio.to_thread(path.rmdir)
    await asyncio.to_thread(path.with_suffix(".away").rename, path)
    await sink.open()
    assert (await sink.write(make_batch(0, 2))).stored == 2


async def test_writing_unopened_is_unavailable(sink: SqliteSink) -> None:
    with pytest.raises(SinkUnavailable):
        await sink.write(make_batch(0, 1))


async def test_every_commit_is_synced(sink: SqliteSink) -> None:
    """synchronous=2 is FULL; the sink's own connection is the one that matters."""
    await sink.open()
    assert sink._connection is not None
    pragmas = await sink._in_thread(
        lambda: [
            sink._connection.execute(f"PRAGMA {name}").fetchone()[0]  # type: ignore[union-attr]
            for name in ("journal_mode", "synchronous")
        ]
    )
    assert pragmas == ["wal", 2]


async def test_a_store_of_a_newer_release_is_left_alone(sink: SqliteSink, path: Path) -> None:
    await sink.open()
    await sink.close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO migrations VALUES (?, 0)", (len(MIGRATIONS) + 1,))
    with pytest.raises(Exception, match="this release knows"):
        await sink.open()


async def test_questions_of_verify_are_answered_up_to_a_place(sink: SqliteSink, path: Path) -> None:
    await sink.open()
    await sink.write(
        Batch(
            [*make_batch(0, 3).rows, make_row(3, kind="adjust", amount_nano=-5)],
            {0: Place(1, 5)},
            dead=[DeadLetter(0, 1, 5, None, "unreadable", b"")],
        )
    )
    with SqliteStore.at(path) as store:
        contents = store.shard_contents(0, Place(1, 1))
        assert contents.cursor == Place(1, 5)
        assert contents.totals_nano == {"acme": {"settle": 700 + 701}}
        assert [(s.epoch, s.first_seq, s.last_seq, s.count) for s in contents.spans] == [
            (1, 0, 5, 5)
        ]
        everything = store.shard_contents(0, Place(1, 9))
        assert everything.totals_nano == {"acme": {"settle": 2103, "adjust": -5}}
        assert store.at_places(0, 1, [1, 4]) == {1: ("r0-1:settled", 701)}
        assert store.shard_contents(1, Place(1, 9)).cursor is None


async def test_contradicting_ends_are_found(sink: SqliteSink, path: Path) -> None:
    await sink.open()
    ends = ["a:settled", "b:released", "b:settled", "c:expired", "c:settled_late"]
    ends += ["d:expired", "d:settled", "e:settled_late", "f_x:released", "f_x:expired"]
    kinds = {
        "settled": "settle",
        "released": "release",
        "expired": "expire",
        "settled_late": "settle_late",
    }
    events = [
        make_event(seq, event_id=event_id, kind=kinds[event_id.partition(":")[2]])
        for seq, event_id in enumerate(ends)
    ]
    await sink.write(batch_of(events))
    with SqliteStore.at(path) as store:
        assert sorted(store.contradictions()) == [
            "b:released and b:settled both ended it",
            "d:expired and d:settled both ended it",
            "e:settled_late has no expiry before it",
            "f_x:released and f_x:expired both ended it",
        ]


async def test_past_uses_are_told_once_each_by_their_last_word(
    sink: SqliteSink, path: Path
) -> None:
    came = 1_699_999_999_000
    rid = f"{came:012x}{'a' * 20}"
    late, usage = f"{came - 5:012x}{'b' * 20}", {"input": 40}
    adjust: dict[str, Any] = {"kind": "adjust", "usage": {}, "price_version": None}
    await sink.open()
    await sink.write(
        batch_of(
            [
                make_event(0, event_id=f"{rid}:settled"),
                make_event(1, event_id=f"{rid}:repriced", amount_nano=90, **adjust),
                make_event(2, event_id="refund:1", amount_nano=600, **adjust),
                make_event(3, kind="release", event_id="r3:released", amount_nano=0, usage={}),
                make_event(4, kind="expire", event_id=f"{late}:expired", amount_nano=30),
                make_event(
                    5,
                    kind="settle_late",
                    event_id=f"{late}:settled_late",
                    amount_nano=-8,
                    usage=usage,
                    facts={"model": "m", "service_tier": "flex"},
                ),
                make_event(6, event_id=f"{late}:repriced_late", amount_nano=2, **adjust),
                make_event(7, customer_id="other", facts={}),
                make_event(
                    8, kind="expire", event_id="r8:expired", customer_id="zeta", amount_nano=3
                ),
            ]
        )
    )
    with SqliteStore.at(path) as store:
        everything = list(store.past_uses(0, 1 << 48))
        plain = {"input": 12, "output": 5}
        assert everything == [
            PastUse("acme", "m", came, "p_1", plain, 700 - 90),
            PastUse("acme", "m", came - 5, "p_1", usage, 30 - 8 - 2, "flex"),
            PastUse("other", "", 1_700_000_000_007, "p_1", plain, 707),
            PastUse("zeta", "m", 1_700_000_000_008, "p_1", plain, 3),
        ]
        assert store.count_past_uses(0, 1 << 48) == 4
        for since, until, customer, count in (
            (came, 1 << 48, None, 3),
            (0, came, None, 1),
            (0, came + 1, "acme", 2),
            (0, 1 << 48, "other", 1),
            (0, 1 << 48, "nobody", 0),
        ):
            assert len(list(store.past_uses(since, until, customer))) == count
            assert store.count_past_uses(since, until, customer) == count


async def test_a_store_of_the_release_before_has_no_statements_and_gets_them(
    sink: SqliteSink, path: Path
) -> None:
    await sink.open()
    await sink.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE statements")
        connection.execute("DROP INDEX events_of_changes")
        before = next(n for n, each in enumerate(MIGRATIONS) if "TABLE statements" in each)
        connection.execute("DELETE FROM migrations WHERE version > ?", (before,))
    access = sqlite_access(path)
    with access.open() as store:
        assert store.closed_statement("acme", "2027-01") is None
        assert store.last_closed_statement("acme") is None
    access.keep_statement(closed("2027-01"))
    with access.open() as store:
        assert store.last_closed_statement("acme") == closed("2027-01")


async def test_rows_of_one_customer_are_found_by_the_index(sink: SqliteSink, path: Path) -> None:
    await sink.open()
    some = [make_event(seq, customer_id=f"c{seq % 3}") for seq in range(30)]
    await sink.write(batch_of(some))
    wanted = RowFilter(
        some[4].occurred_at_ms, some[20].occurred_at_ms, "c1", frozenset({"settle", "grant"})
    )
    plans: list[str] = []
    with SqliteStore.at(path) as store:
        connection = store._connection
        connection.set_trace_callback(plans.append)
        assert [row.seq for row in store.rows(wanted)] == [4, 7, 10, 13, 16, 19]
        connection.set_trace_callback(None)
        plan = connection.execute(f"EXPLAIN QUERY PLAN {plans[0]}").fetchall()
    assert any("events_by_customer (customer_id=? AND occurred_at_ms>?" in row[3] for row in plan)


async def test_changes_are_found_by_the_index(sink: SqliteSink, path: Path) -> None:
    await sink.open()
    plans: list[str] = []
    with SqliteStore.at(path) as store:
        connection = store._connection
        connection.set_trace_callback(plans.append)
        assert store.changes(ChangeFilter(since_ms=5, actor="user:a")) == []
        connection.set_trace_callback(None)
        plan = connection.execute(f"EXPLAIN QUERY PLAN {plans[0]}").fetchall()
    assert [row[3] for row in plan] == [
        "SEARCH events USING INDEX events_of_changes (occurred_at_ms>?)"
    ], "neither a scan nor a sort"


def test_the_index_is_of_the_kinds_that_a_change_may_write() -> None:
    named = ", ".join(f"'{kind}'" for kind in CHANGE_KINDS)
    assert f"kind IN ({named})" == OF_CHANGES
    assert OF_CHANGES in postgres_queries.CHANGES
    assert OF_CHANGES in postgres_schema.MIGRATIONS[-1]
