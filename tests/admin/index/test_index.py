"""The console's index: what it answers is what the store says, however it got there."""

import itertools
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.admin.index.index import Index, IndexNotReady
from gateway.admin.index.search import RequestsAsked
from gateway.admin.index.usage import IndexDimension, UsageAsked
from gateway.domain.delivery import Place
from gateway.domain.events import Event
from gateway.domain.stores import StoreMissing
from gateway.exporter.sinks.sqlite import SqliteSink
from gateway.exporter.sinks.sqlite_reader import SqliteStore
from gateway.operations.report import Report, ReportRequest, report
from tests.support.stores import sqlite_sink
from tests.unit.exporter.sinks.contract import batch_of
from tests.unit.exporter.sinks.summing import EVENTS, MIDNIGHT, used

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
MORE: Final = (
    used(16, "shadowed", customer_id="acme~shadow", amount_nano=9),
    used(17, "tested", customer_id="acme~test", amount_nano=5, cost_nano=2),
    used(18, "later", amount_nano=70, cost_nano=50, occurred_at_ms=MIDNIGHT + 5 * HOUR_MS),
    used(19, "week", model="large", amount_nano=8, occurred_at_ms=MIDNIGHT + 7 * DAY_MS - 1),
)
ALL: Final = EVENTS + MORE
GROUPINGS: Final[tuple[tuple[IndexDimension, ...], ...]] = (
    *((), ("customer",), ("project",), ("key",), ("model",), ("day",), ("hour",)),
    *(("model", "day"), ("hour", "customer"), ("customer", "project", "key", "model")),
)


@dataclass(slots=True)
class Followed:
    """A store that an index follows."""

    sink: SqliteSink
    store: SqliteStore
    index: Index
    path: Path

    async def write(self, *events: Event) -> None:
        """Store events, and move the cursors to the last of each shard."""
        ends: dict[int, Place] = {}
        for event in events:
            place = Place(event.epoch, event.seq)
            ends[event.shard] = max(ends.get(event.shard, place), place)
        await self.sink.write(batch_of(events, ends))

    def fill(self) -> None:
        """Read everything."""
        while not self.index.step():
            pass

    @contextmanager
    def other(self, store: SqliteStore | None = None) -> Iterator[Index]:
        """The index as the next process opens it."""
        index = Index(self.path, store or self.store)
        yield index
        index.close()


@pytest.fixture
async def followed(tmp_path: Path) -> AsyncIterator[Followed]:
    sink = sqlite_sink(tmp_path / "events.db")
    await sink.open()
    store = SqliteStore.at(tmp_path / "events.db")
    index = Index(tmp_path / "index.db", store)
    yield Followed(sink, store, index, tmp_path / "index.db")
    index.close()
    store.close()
    await sink.close()


def plain(made: Report) -> Any:
    """A report for comparison: quantities of zero do not matter."""

    def bare(sums: Any) -> Any:
        return replace(sums, usage={unit: n for unit, n in sums.usage.items() if n})

    lines = {labels: bare(sums) for labels, sums in made.lines.items()}
    return made.by, lines, list(lines), bare(made.total), made.rows


async def test_sums_are_those_of_the_report(followed: Followed) -> None:
    await followed.write(*ALL)
    followed.fill()
    hours = (None, 0, MIDNIGHT - HOUR_MS, MIDNIGHT, MIDNIGHT + 5 * HOUR_MS, MIDNIGHT + 7 * DAY_MS)
    wrong = []
    for by in GROUPINGS:
        for since, until in itertools.product(hours, hours):
            for customer in (None, "acme", "acme~shadow", "acme' OR 1 = 1 --"):
                request = ReportRequest(by, since, until, customer)
                asked = UsageAsked(by, since, until, customer)
                expected = plain(report(followed.store, request))
                if plain(await followed.index.usage(asked)) != expected:
                    wrong.append(request)
    assert wrong == []


async def test_sums_are_the_same_when_events_come_one_by_one(followed: Followed) -> None:
    for event in ALL:
        await followed.write(event)
        followed.fill()
        followed.fill()
    request = ReportRequest(("customer", "model"))
    made = await followed.index.usage(UsageAsked(("customer", "model")))
    assert plain(made) == plain(report(followed.store, request))


async def test_test_and_live_requests_are_told_apart(followed: Followed) -> None:
    tested = used(0, "t", amount_nano=3)
    tested = replace(tested, facts={**tested.facts, "livemode": False, "mode": "enforce"})
    await followed.write(tested, used(1, "l", amount_nano=4))
    followed.fill()
    made = await followed.index.usage(UsageAsked(("livemode", "mode")))
    charged = {labels: line.charged_nano for labels, line in made.lines.items()}
    assert charged == {("false", "enforce"): 3, ("true", ""): 4}
    made = await followed.index.usage(UsageAsked((), livemode=False))
    assert made.total.charged_nano == 3


async def test_what_the_index_cannot_say_is_asked_of_the_store(followed: Followed) -> None:
    await followed.write(*ALL)
    within_an_hour = ReportRequest(("model",), MIDNIGHT + 3, MIDNIGHT + 8)
    by_kind = ReportRequest(("kind",))
    for request in (within_an_hour, by_kind, ReportRequest(("model",))):
        assert not followed.index.ready
        assert await followed.index.report(request) == report(followed.store, request)
    followed.fill()
    for request in (within_an_hour, by_kind):
        assert await followed.index.report(request) == report(followed.store, request)
    with pytest.raises(ValueError, match="begins and ends with an hour"):
        await followed.index.usage(UsageAsked((), MIDNIGHT + 3))


async def test_requests_are_found_by_what_is_asked_for(followed: Followed) -> None:
    odd = used(20, "odd", model="large", occurred_at_ms=MIDNIGHT + 20)
    facts = {**odd.facts, "flags": ["usage_missing", "client_gone"], "http_status": 500}
    facts["duration_ms"] = 12
    await followed.write(*EVENTS, replace(odd, facts=facts))
    followed.fill()

    async def found(**asked: Any) -> list[str]:
        return [each.request_id for each in await followed.index.search(RequestsAsked(**asked))]

    latest_first = [
        "next day",
        "odd",
        "quote",
        "nameless",
        "theirs",
        "free",
        "lone",
        "slow",
        "slow",
    ]
    assert await found() == [*latest_first, "gone", "second", "first", "before"]
    assert await found(limit=2) == ["next day", "odd"]
    assert await found(model="large") == ["odd", "second"]
    assert await found(customer_id="other") == ["theirs"]
    assert await found(key_id="key_2", model="large") == ["second"]
    assert await found(key_id="key_2", model="small") == []
    assert await found(kind="release") == ["gone"]
    assert await found(status=500) == await found(flag="client_gone") == ["odd"]
    assert await found(flag="client") == []
    assert await found(model="small", flag="client_gone") == []
    assert await found(since_ms=MIDNIGHT + 13, until_ms=MIDNIGHT + 20) == ["quote", "nameless"]
    [line] = await followed.index.search(RequestsAsked(status=500))
    assert (line.flags, line.duration_ms) == (["client_gone", "usage_missing"], 12)
    assert (line.kind, line.amount_nano, line.price_version) == ("settle", 720, "p_1")


async def test_pages_of_requests_have_each_once(followed: Followed) -> None:
    same_time = [used(n, f"r{n}", occurred_at_ms=MIDNIGHT + n // 5) for n in range(23)]
    await followed.write(*same_time)
    followed.fill()
    for asked in (RequestsAsked(limit=4), RequestsAsked(customer_id="acme", limit=4)):
        seen: list[str] = []
        page = await followed.index.search(asked)
        while page:
            seen += [each.request_id for each in page]
            page = await followed.index.search(replace(asked, before=page[-1].place))
        assert seen == [f"r{n}" for n in reversed(range(23))]


async def test_the_next_process_goes_on_where_this_one_ended(followed: Followed) -> None:
    await followed.write(*ALL[:9])
    followed.fill()
    followed.index.close()
    await followed.write(*ALL[9:])
    with followed.other() as index:
        assert not index.ready
        assert index.step()
        made = await index.usage(UsageAsked(()))
        assert plain(made) == plain(report(followed.store, ReportRequest(())))


async def test_two_processes_on_one_file_count_each_event_once(followed: Followed) -> None:
    with followed.other() as other:
        for event in ALL:
            await followed.write(event)
            other.step()
            followed.fill()
        assert (await other.usage(UsageAsked(()))).rows == (
            await followed.index.usage(UsageAsked(()))
        ).rows
        made = await other.usage(UsageAsked(()))
        assert plain(made) == plain(report(followed.store, ReportRequest(())))


async def test_a_damaged_file_and_one_of_another_format_are_built_again(followed: Followed) -> None:
    await followed.write(*ALL)
    followed.fill()
    expected = plain(await followed.index.usage(UsageAsked(("model",))))
    followed.index.close()
    followed.path.write_bytes(b"not a database, " * 1000)
    with followed.other() as index:
        assert index.step()
        assert plain(await index.usage(UsageAsked(("model",)))) == expected
    with sqlite3.connect(followed.path) as connection:
        connection.execute("PRAGMA user_version = 999")
        connection.execute("DROP TABLE series")
    with followed.other() as index:
        assert index.step()
        assert plain(await index.usage(UsageAsked(("model",)))) == expected
    assert stat.S_IMODE(followed.path.stat().st_mode) == 0o600


async def test_another_store_and_one_that_lost_events_are_indexed_from_the_start(
    followed: Followed, tmp_path: Path
) -> None:
    await followed.write(*ALL)
    followed.fill()
    followed.index.close()
    for events in ([*ALL, used(20, "one more", amount_nano=1)], ALL[:5]):
        path = tmp_path / f"other-{len(events)}.db"
        sink = sqlite_sink(path)
        await sink.open()
        await sink.write(batch_of(events, {0: Place(1, events[-1].seq)}))
        await sink.close()
        with SqliteStore.at(path) as store, followed.other(store) as index:
            index.step()
            made = await index.usage(UsageAsked(("customer",)))
            assert plain(made) == plain(report(store, ReportRequest(("customer",))))


async def test_an_event_that_fills_a_gap_is_counted(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.admin.index.index._GAPS_EVERY_S", -1.0)
    late, *others = EVENTS[:6]
    await followed.write(*others)
    followed.fill()
    await followed.sink.write(batch_of([late]))
    followed.fill()
    made = await followed.index.usage(UsageAsked(()))
    assert plain(made) == plain(report(followed.store, ReportRequest(())))


async def test_events_beyond_the_cursor_wait(followed: Followed) -> None:
    await followed.sink.write(batch_of(EVENTS[:6], {0: Place(1, 2)}))
    followed.fill()
    assert [each.request_id for each in await followed.index.search(RequestsAsked())] == [
        *("second", "first", "before"),
    ]


async def test_without_its_folder_there_is_no_index_and_the_store_answers(
    followed: Followed,
) -> None:
    await followed.write(*ALL)
    index = Index(followed.path.parent / "missing" / "index.db", followed.store)
    with pytest.raises(OSError, match="missing"):
        index.step()
    with pytest.raises(IndexNotReady):
        await index.usage(UsageAsked(()))
    request = ReportRequest(("model",))
    assert await index.report(request) == report(followed.store, request)
    index.close()


async def test_while_the_store_is_away_the_index_goes_on_answering(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await followed.write(*ALL)
    followed.fill()
    before = plain(await followed.index.usage(UsageAsked(("model",))))

    def away() -> None:
        raise StoreMissing("the store is away")

    monkeypatch.setattr(followed.store, "cursors", away)
    with pytest.raises(StoreMissing):
        followed.index.step()
    assert plain(await followed.index.usage(UsageAsked(("model",)))) == before
    assert followed.index.problem == "the store is away"


async def test_sums_beyond_64_bits_come_from_the_store(followed: Followed) -> None:
    most = (1 << 63) - 1
    await followed.write(used(0, "a", amount_nano=most))
    followed.fill()
    await followed.write(used(1, "b", amount_nano=most))
    with pytest.raises(sqlite3.Error):
        followed.fill()
    made = await followed.index.report(ReportRequest(()))
    assert made.total.charged_nano == 2 * most
