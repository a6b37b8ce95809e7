"""A sink that was fed is compared event by event, and what it lacks is found."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.domain.delivery import DeadLetter, Place
from gateway.operations.compare_stores import SinkComparison, compare_stores, missing_rows
from tests.support.stores import sqlite_access, sqlite_sink
from tests.unit.exporter.sinks.contract import make_batch, make_row


@pytest.fixture
async def paths(tmp_path: Path) -> tuple[Path, Path]:
    """A store with 30 events in two shards, and a sink that was fed with 25 of them."""
    store, copy = sqlite_sink(tmp_path / "store.db"), sqlite_sink(tmp_path / "copy.db")
    await store.open()
    await copy.open()
    for shard in (0, 3):
        await store.write(make_batch(0, 15, shard))
        end = 14 if shard == 0 else 9
        await copy.write(make_batch(0, end + 1, shard))
        await store.note_sink("copy", {shard: Place(1, end)})
    await store.close()
    await copy.close()
    return store.path, copy.path


def compare(paths: tuple[Path, Path]) -> SinkComparison:
    with sqlite_access(paths[0]).open() as store, sqlite_access(paths[1]).open() as copy:
        return compare_stores("copy", store, copy, lambda *_: None)


def lacking(paths: tuple[Path, Path]) -> Iterator[str]:
    with sqlite_access(paths[0]).open() as store, sqlite_access(paths[1]).open() as copy:
        yield from (row.event_id for row in missing_rows("copy", store, copy))


def change(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement)


def test_a_sink_that_has_what_it_was_fed_with_is_clean(paths: tuple[Path, Path]) -> None:
    found = compare(paths)
    assert found.clean
    assert (found.compared, found.shards, found.since_ms) == (25, (), None)
    assert list(lacking(paths)) == []


def test_missing_events_are_counted_named_and_dated(paths: tuple[Path, Path]) -> None:
    change(paths[1], "DELETE FROM events WHERE shard = 3 AND seq IN (4, 7)")
    found = compare(paths)
    assert (found.missing, found.different, found.extra) == (2, 0, 0)
    assert (found.shards, found.examples) == ((3,), ("r3-4:settled", "r3-7:settled"))
    assert found.since_ms == 1_700_000_000_004
    assert list(lacking(paths)) == ["r3-4:settled", "r3-7:settled"]


def test_another_amount_is_a_difference(paths: tuple[Path, Path]) -> None:
    change(paths[1], "UPDATE events SET amount_nano = 1 WHERE shard = 0 AND seq = 2")
    found = compare(paths)
    assert (found.missing, found.different, found.examples) == (0, 1, ("r0-2:settled",))


def test_what_the_store_has_not_is_extra(paths: tuple[Path, Path]) -> None:
    change(paths[0], "DELETE FROM events WHERE shard = 0 AND seq = 6")
    found = compare(paths)
    assert (found.missing, found.extra, found.compared) == (0, 1, 24)


async def test_what_the_sink_gave_up_is_missing_and_said_to_be_given_up(
    paths: tuple[Path, Path],
) -> None:
    change(paths[1], "DELETE FROM events WHERE shard = 3 AND seq IN (4, 7)")
    row = make_row(4, 3)
    letter = DeadLetter(3, 1, 4, row.event_id, "poison", b"")
    store = sqlite_sink(paths[0])
    await store.open()
    await store.note_sink("copy", {}, [letter])
    await store.close()
    found = compare(paths)
    assert (found.missing, found.given_up) == (2, 1)
