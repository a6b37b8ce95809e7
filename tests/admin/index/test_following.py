"""The admin process keeps its index filled, and lives without it."""

import pytest

from gateway.admin.index.index import FILE, IndexNotReady
from gateway.admin.index.usage import UsageAsked
from gateway.domain.delivery import Place
from gateway.operations.report import ReportRequest
from tests.support.console import Console, Serve
from tests.support.stores import events_path, sqlite_sink
from tests.support.until import until
from tests.unit.exporter.sinks.contract import batch_of
from tests.unit.exporter.sinks.summing import EVENTS, MIDNIGHT


async def ready(console: Console) -> bool:
    return console.context.index.ready


async def test_events_are_in_the_index_as_soon_as_they_are_in_the_store(console: Console) -> None:
    index = console.context.index
    await until(lambda: ready(console))
    sink = sqlite_sink(events_path(console.settings))
    await sink.open()
    try:
        for end in (6, len(EVENTS)):
            await sink.write(batch_of(EVENTS[:end], {0: Place(1, end - 1)}))
            made = await index.usage(UsageAsked(()))
            charging = [e for e in EVENTS[:end] if e.kind in ("settle", "expire", "settle_late")]
            assert made.total.charged_nano == sum(event.amount_nano for event in charging)
    finally:
        await sink.close()


async def test_the_index_is_closed_with_the_process(serve: Serve) -> None:
    async with serve() as console:
        await until(lambda: ready(console))
        index = console.context.index
        assert (console.settings.data_dir / FILE).exists()
    assert not index.ready
    assert index.step(), "a step after the end does nothing"


async def test_pages_work_where_the_index_cannot_be_kept(serve: Serve) -> None:
    async with serve() as console:
        await until(lambda: ready(console))
        index = console.context.index
        index.close()
        with pytest.raises(IndexNotReady):
            await index.usage(UsageAsked(()))
        made = await index.report(ReportRequest(("model",), MIDNIGHT))
        assert made.lines == {}
