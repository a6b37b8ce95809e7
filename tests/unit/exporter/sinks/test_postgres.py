"""Postgres as a sink: the contracts and the kills on a real server, and what is its own."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from gateway.domain.delivery import DeadLetter, Place
from gateway.domain.event_rows import EventRow
from gateway.domain.signals import Signal
from gateway.domain.stores import StoreMissing
from gateway.exporter.sink import Batch, SinkUnavailable, StoreTooNew
from gateway.exporter.sinks import postgres_pool
from gateway.exporter.sinks.options import PostgresOptions
from gateway.exporter.sinks.postgres import PostgresSink
from gateway.exporter.sinks.postgres_access import PostgresAccess
from gateway.exporter.sinks.postgres_schema import MIGRATIONS
from loadtest.sinks.postgres_server import (
    DEBIAN,
    ESCAPED,
    PASSWORD,
    PostgresServer,
    running_postgres,
)
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


@pytest.fixture
def options(postgres_server: PostgresServer) -> PostgresOptions:
    return postgres_server.fresh()


@pytest.fixture
async def sink(options: PostgresOptions) -> AsyncIterator[PostgresSink]:
    sink = PostgresSink(options)
    yield sink
    await sink.close()


@pytest.fixture
def access(options: PostgresOptions) -> PostgresAccess:
    return PostgresAccess(options)


@pytest.fixture
def stored_ids(postgres_server: PostgresServer, options: PostgresOptions) -> StoredIds:
    async def read() -> list[str]:
        rows = postgres_server.execute(f"SELECT event_id FROM {options.schema}.events")
        return [event_id for (event_id,) in rows]

    return read


@pytest.fixture
def query(postgres_server: PostgresServer, options: PostgresOptions) -> Query:
    def ask(statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(postgres_server.socket_url()) as connection:
            connection.execute(f"SET search_path = {options.schema}; SET TIME ZONE 'UTC'".encode())
            return connection.execute(statement.encode()).fetchall()

    return ask


class TestContract(SinkContract):
    @pytest.fixture
    def unacceptable(self) -> EventRow:
        return make_row(7, amount_nano=1 << 63)


class TestUsage(UsageContract):
    pass


class TestReader(ReaderContract):
    pass


class TestViews(ViewContract):
    pass


class TestRefusals(RefusalContract):
    pass


class TestKills(KillContract):
    pass


@pytest.mark.debian
class TestOnDebiansPostgres(SinkContract, ReaderContract, UsageContract, ViewContract):
    @pytest.fixture(scope="class")
    @classmethod
    def postgres_server(cls) -> Iterator[PostgresServer]:
        with running_postgres(DEBIAN) as server:
            yield server


async def test_another_event_at_a_taken_place_is_refused_not_ignored(sink: PostgresSink) -> None:
    await sink.open()
    await sink.write(make_batch(0, 3))
    impostor, elsewhere = make_row(1, event_id="other:settled"), make_row(0, shard=1)
    written = await sink.write(
        Batch([make_row(0), impostor, make_row(3), elsewhere], {0: Place(1, 3)})
    )
    assert (written.stored, written.duplicates) == (1, 0), "no more of its shard"
    assert [(f.row, f.reason, f.place_taken, f.retry) for f in written.failed] == [
        (impostor, "another event has its place", True, False)
    ]
    assert await sink.open() == {0: Place(1, 2)}, "the cursor stays where it was"


async def test_an_id_that_comes_again_from_another_place_is_refused(sink: PostgresSink) -> None:
    await sink.open()
    await sink.write(make_batch(0, 1))
    written = await sink.write(batch_of([make_event(7, event_id="r0-0:settled")]))
    assert [(f.reason, f.place_taken) for f in written.failed] == [
        ("its id is already stored for another place", False)
    ]


async def test_what_is_twice_in_a_batch_is_stored_once(sink: PostgresSink) -> None:
    await sink.open()
    written = await sink.write(batch_of([make_event(0), make_event(1), make_event(0)]))
    assert (written.stored, written.duplicates, list(written.failed)) == (2, 1, [])


async def test_bad_events_anywhere_in_a_large_batch_fail_alone(
    sink: PostgresSink, stored_ids: StoredIds
) -> None:
    await sink.open()
    rows = [make_row(seq) for seq in range(300)]
    rows[0] = rows[0]._replace(amount_nano=1 << 63)
    rows[150] = rows[150]._replace(event_id=os.urandom(5000).hex())  # too long for an index
    rows[299] = rows[299]._replace(usage="{not JSON")
    written = await sink.write(Batch([*rows, rows[5]], {0: Place(1, 299)}))
    assert (written.stored, written.duplicates) == (297, 1)
    assert [failure.row.seq for failure in written.failed] == [0, 150, 299]
    assert all(f.reason.startswith("cannot be stored: ") and not f.retry for f in written.failed)
    assert len(await stored_ids()) == 297
    assert await sink.open() == {}


async def test_what_postgres_cannot_hold_in_a_text_is_replaced_and_recognised_again(
    sink: PostgresSink, access: PostgresAccess
) -> None:
    await sink.open()
    facts = {"nul": "a\0b", "not one": "\\u0000", "both": "\\\0", "request_id": "r\0"}
    odd = make_event(0, event_id="r\0:settled", customer_id="a\0cme", facts=facts)
    half = make_row(1)._replace(customer_id="half \ud83d of one", facts='{"request_id":"r2"}')
    signal = Signal("exhausted", {"threshold_nano": 0})
    batch = batch_of([odd, make_event(2, customer_id="\0", signals=(signal,))])
    letter = DeadLetter(0, 1, 9, "x\0", "can\0not", b"\0")
    for stored in (3, 0):
        given = Batch([*batch.rows, half], {}, [letter], signals=batch.signals)
        written = await sink.write(given)
        assert (written.stored, list(written.failed)) == (stored, [])
    with access.open() as store:
        found = store.latest(9)
        assert found[0].event.event_id == "r\ufffd:settled"
        assert found[0].event.customer_id == "a\ufffdcme"
        assert found[0].event.facts == {
            "nul": "a\ufffdb",
            "not one": "\\u0000",
            "both": "\\\ufffd",
            "request_id": "r\ufffd",
        }
        assert found[2].event.customer_id == "half \ufffd of one"
        assert [signal.customer_id for signal in store.signals()] == ["\ufffd"]
        assert store.dead_letters() == [DeadLetter(0, 1, 9, "x\ufffd", "can\ufffdnot", b"\0")]


async def test_exporters_that_start_at_once_make_one_store_and_share_it(
    options: PostgresOptions, stored_ids: StoredIds
) -> None:
    sinks = [PostgresSink(options) for _ in range(4)]
    try:
        await asyncio.gather(*(sink.open() for sink in sinks))
        assert len({sink.store_id for sink in sinks}) == 1
        own = (sink.write(make_batch(0, 500, shard)) for shard, sink in enumerate(sinks))
        assert [done.stored for done in await asyncio.gather(*own)] == [500] * 4
        same = await asyncio.gather(*(sink.write(make_batch(0, 500, 9)) for sink in sinks))
        assert sum(done.stored for done in same) == 500
        assert [list(done.failed) for done in same] == [[]] * 4
        assert len(set(await stored_ids())) == len(await stored_ids()) == 2500
        assert await sinks[0].open() == {shard: Place(1, 499) for shard in (0, 1, 2, 3, 9)}
    finally:
        for sink in sinks:
            await sink.close()


async def test_a_store_of_a_newer_release_is_left_alone(
    sink: PostgresSink, options: PostgresOptions, postgres_server: PostgresServer
) -> None:
    await sink.open()
    newer = len(MIGRATIONS) + 1
    postgres_server.execute(f"INSERT INTO {options.schema}.migrations VALUES ({newer}, 0)")
    with pytest.raises(StoreTooNew, match=f"has schema {newer}, this release knows"):
        await sink.open()


async def test_after_a_crash_of_the_server_it_goes_on_and_nothing_is_lost(
    sink: PostgresSink, access: PostgresAccess, postgres_server: PostgresServer
) -> None:
    await sink.open()
    await sink.write(make_batch(0, 100))
    assert access.cursors() == {0: Place(1, 99)}
    await asyncio.to_thread(postgres_server.stop, signal.SIGQUIT)
    try:
        with pytest.raises(SinkUnavailable):
            await sink.write(make_batch(100, 200))
        with pytest.raises(SinkUnavailable, match="Errno"):
            await sink.open()
        with pytest.raises(StoreMissing, match="refused"):
            access.cursors()
        with pytest.raises(StoreMissing):
            access.open_or_empty()
    finally:
        await asyncio.to_thread(postgres_server.start)
    assert await sink.open() == {0: Place(1, 99)}
    assert (await sink.write(make_batch(50, 200))).stored == 100
    assert access.cursors() == {0: Place(1, 199)}


async def test_kept_connections_of_a_restarted_server_are_not_used(
    sink: PostgresSink, access: PostgresAccess, postgres_server: PostgresServer
) -> None:
    await sink.open()
    await sink.write(make_batch(0, 5))
    with access.open() as store:
        assert len(store.latest(9)) == 5
    await asyncio.to_thread(postgres_server.restart)
    with access.open() as store:
        assert len(store.latest(9)) == 5
        await asyncio.to_thread(postgres_server.restart)
        with pytest.raises(StoreMissing):
            store.latest(9)
    assert access.cursors() == {0: Place(1, 4)}


async def test_a_server_that_does_not_answer_in_time_is_unavailable(
    options: PostgresOptions, postgres_server: PostgresServer
) -> None:
    hasty = replace(options, timeout_ms=200)
    sink, access = PostgresSink(hasty), PostgresAccess(hasty)
    await sink.open()
    with psycopg.connect(postgres_server.socket_url(user="postgres")) as other:
        other.execute(f"LOCK TABLE {options.schema}.events, {options.schema}.cursors".encode())
        with pytest.raises(SinkUnavailable, match="no answer within 200 ms"):
            await sink.write(make_batch(0, 5))
        with pytest.raises(StoreMissing, match="statement timeout"):
            access.cursors()
    assert (await sink.write(make_batch(0, 5))).stored == 5
    assert access.cursors() == {0: Place(1, 4)}
    await sink.close()


async def test_a_suspended_server_does_not_hold_a_reader_for_ever(
    sink: PostgresSink,
    options: PostgresOptions,
    postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgres_pool, "MARGIN_S", 0.0)
    await sink.open()
    access = PostgresAccess(replace(options, timeout_ms=200))
    with access.open() as store:
        ((backend,),) = store._all("SELECT pg_backend_pid()")
        os.kill(backend, signal.SIGSTOP)
        try:
            with pytest.raises(StoreMissing):
                store.latest(9)
        finally:
            os.kill(backend, signal.SIGCONT)
    assert access.cursors() == {}


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("ALTER ROLE gate PASSWORD 'another'", "credentials were refused: password authentication"),
        ("ALTER ROLE gate NOLOGIN", "not permitted to log in"),
        ("ALTER DATABASE gate OWNER TO postgres", "permission denied for database gate"),
        ("ALTER ROLE gate SET default_transaction_read_only = on", "read-only"),
        ("ALTER DATABASE gate RENAME TO elsewhere", 'database "gate" does not exist'),
    ],
)
async def test_what_the_server_refuses_is_named_without_the_password(
    statement: str,
    what: str,
    options: PostgresOptions,
    sink: PostgresSink,
    postgres_server: PostgresServer,
) -> None:
    postgres_server.execute(statement, "postgres")
    try:
        with pytest.raises(SinkUnavailable, match=what) as caught:
            await sink.open()
    finally:
        postgres_server.execute(
            f"ALTER ROLE gate LOGIN PASSWORD '{PASSWORD}';"
            " ALTER ROLE gate RESET default_transaction_read_only",
            "postgres",
        )
        if "RENAME" in statement:
            postgres_server.execute("ALTER DATABASE elsewhere RENAME TO gate", "postgres")
        postgres_server.execute("ALTER DATABASE gate OWNER TO gate", "postgres")
    shown = str(caught.value) + repr(sink) + PostgresAccess(options).shown
    assert "gate@127.0.0.1" in shown
    assert PASSWORD not in shown
    assert ESCAPED not in shown


async def test_a_schema_that_was_made_for_it_is_enough(
    sink: PostgresSink, options: PostgresOptions, postgres_server: PostgresServer
) -> None:
    postgres_server.execute("ALTER DATABASE gate OWNER TO postgres", "postgres")
    try:
        postgres_server.execute(f"CREATE SCHEMA {options.schema} AUTHORIZATION gate")
        assert await sink.open() == {}
        assert (await sink.write(make_batch(0, 2))).stored == 2
    finally:
        postgres_server.execute("ALTER DATABASE gate OWNER TO gate", "postgres")


async def test_a_store_that_may_not_be_read_is_not_an_empty_one(
    sink: PostgresSink, options: PostgresOptions, postgres_server: PostgresServer
) -> None:
    await sink.open()
    postgres_server.execute("CREATE ROLE stranger LOGIN")
    try:
        stranger = replace(options, url=postgres_server.socket_url(user="stranger"))
        with pytest.raises(StoreMissing, match="needs USAGE on the schema"):
            PostgresAccess(stranger).cursors()
    finally:
        postgres_server.execute("DROP ROLE stranger")


async def test_a_commit_is_synced_even_where_the_role_says_otherwise(
    sink: PostgresSink, postgres_server: PostgresServer
) -> None:
    postgres_server.execute("ALTER ROLE gate SET synchronous_commit = off")
    try:
        await sink.open()
        async with sink._writing.use() as connection:
            assert await connection.fetchval("SHOW synchronous_commit") == "on"
    finally:
        postgres_server.execute("ALTER ROLE gate RESET synchronous_commit")


async def test_a_database_of_another_encoding_is_refused(
    options: PostgresOptions, postgres_server: PostgresServer
) -> None:
    postgres_server.execute(
        "CREATE DATABASE latin OWNER gate ENCODING LATIN1 TEMPLATE template0", "postgres"
    )
    sink = PostgresSink(replace(options, url=postgres_server.url("latin")))
    with pytest.raises(SinkUnavailable, match="encoding must be UTF8"):
        await sink.open()


async def test_parameters_that_only_one_driver_knows_and_unix_sockets_work_for_both(
    options: PostgresOptions, postgres_server: PostgresServer
) -> None:
    more = "&connect_timeout=5&keepalives_idle=3&application_name=a%20b&channel_binding=prefer"
    both = replace(options, url=postgres_server.socket_url() + more)
    sink, access = PostgresSink(both), PostgresAccess(both)
    await sink.open()
    await sink.write(make_batch(0, 3))
    assert access.cursors() == {0: Place(1, 2)}
    assert access.shown.startswith(f"postgresql://gate@{postgres_server.folder}:")
    await sink.close()


async def test_writing_unopened_is_unavailable(sink: PostgresSink) -> None:
    for work in (sink.write(make_batch(0, 1)), sink.sink_cursors("x"), sink.read_beyond({}, 1)):
        with pytest.raises(SinkUnavailable, match="not open"):
            await work


async def test_after_a_failure_it_connects_again_by_itself(
    sink: PostgresSink, postgres_server: PostgresServer
) -> None:
    await sink.open()
    await sink.sink_cursors("x")
    await asyncio.to_thread(postgres_server.restart)
    for work in (lambda: sink.write(make_batch(0, 3)), lambda: sink.sink_cursors("x")):
        try:
            await work()
        except SinkUnavailable:
            await work()
    assert await sink.open() == {0: Place(1, 2)}
