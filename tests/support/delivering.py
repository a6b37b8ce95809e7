"""Runs the exporter with a gate, as the supervisor does, and waits for what it delivers."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from gateway.app.exporting import ExportService, build_exporter
from gateway.app.roles import Resources
from gateway.app.stores import store_access
from gateway.domain.delivery import Place
from gateway.settings import Settings
from tests.support.gate import Gate
from tests.support.until import until


@asynccontextmanager
async def exporting(gate: Gate, settings: Settings | None = None) -> AsyncIterator[ExportService]:
    """Run the exporter of this gate until the block ends. settings: the gate's with other sinks"""
    settings = settings or gate.settings
    url, data = settings.redis.connection_url(), str(settings.data_dir)
    assert url is not None
    service = await build_exporter(settings, Resources(url, data, "exporter-0"))
    await service.start(None)
    try:
        yield service
    finally:
        await service.drain(5.0)


def stored(gate: Gate) -> Mapping[int, Place]:
    return store_access(gate.settings).cursors()


async def delivered(gate: Gate) -> None:
    """Wait until the store has every entry that the outbox had."""
    await gate.settle_all()

    async def all_of_it() -> bool:
        heads = await gate.outbox.heads()
        cursors = stored(gate)
        return all(h.last.seq < 0 or cursors.get(n) == h.last for n, h in enumerate(heads))

    await until(all_of_it)
