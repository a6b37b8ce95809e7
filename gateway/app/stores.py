"""From a configuration to its sinks, and to the store that is read back."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from gateway.app.private import UMASK
from gateway.domain.delivery import START, Place
from gateway.domain.stores import StoreAccess, StoreMissing
from gateway.exporter.signal_schedule import SignalSchedule
from gateway.exporter.sink import Sink, SinkInUse, SinkUnavailable
from gateway.exporter.sinks.registry import (
    DriverMissing,
    build_access,
    build_schedule,
    build_sink,
    build_store,
    readable,
)
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.exporters import ExporterList, Leases, list_exporters
from gateway.ledger.outbox import Outbox
from gateway.operations.errors import NotFound, OperationError
from gateway.settings import Settings


def store_access(settings: Settings) -> StoreAccess:
    """How to read the required store. Raises DriverMissing."""
    return build_access(settings.required_store())


def signal_schedule(settings: Settings) -> SignalSchedule:
    """Where the signals wait that are sent as webhooks: in the required store. Raises DriverMissing."""
    return build_schedule(settings.required_store())


def readable_sinks(settings: Settings) -> dict[str, StoreAccess]:
    """The optional sinks that can be read back, by name. Raises DriverMissing."""
    return {
        name: build_access(options)
        for name, options in settings.optional_sinks().items()
        if readable(options)
    }


def find_sink(settings: Settings, name: str) -> Sink:
    """A configured sink, not open yet; the required store has a name, too. Raises NotFound, DriverMissing."""
    sinks = settings.optional_sinks() | {settings.export.required: settings.required_store()}
    if name not in sinks:
        known = ", ".join(sorted(sinks))
        raise NotFound(f"there is no sink {name!r}; sinks that are configured: {known}")
    # To open one may make its file and the data folder: private, or no gate starts on it.
    os.umask(UMASK)
    return build_sink(sinks[name])


async def open_sinks(settings: Settings) -> dict[str, str | None]:
    """Open and close every configured sink; return name → why it cannot be written to, None if it can.

    An embedded store that an exporter writes to at this moment counts as open.
    """
    names = [settings.export.required, *settings.optional_sinks()]
    return {name: await _reason_against(settings, name) for name in names}


async def _reason_against(settings: Settings, name: str) -> str | None:
    try:
        sink = find_sink(settings, name)
        try:
            await sink.open()
        finally:
            await sink.close()
    except SinkInUse:
        return None
    except (SinkUnavailable, DriverMissing) as error:
        return str(error)
    return None


async def adopt_store(settings: Settings, client: Any, *, reset_progress: bool = False) -> None:
    """Record the configured required store as the ledger's, with the progress of the optional sinks.

    reset_progress: without their progress: each begins as one that is new in the configuration

    Raises OperationError if it lacks what the ledger has trimmed, or the sinks' progress is not found;
    StoreInUse, SinkUnavailable, LedgerUnavailable, DriverMissing.
    """
    os.umask(UMASK)  # a store may be made here
    keys, name = Keys(settings.redis.namespace, settings.redis.shards), settings.export.required
    store = build_store(settings.required_store())
    try:
        cursors = await store.open()
        outbox = Outbox(client, keys.shard_count, namespace=keys.namespace)
        for shard, head in enumerate(await outbox.heads()):
            if head.acked is not None and cursors.get(shard, START) < head.acked:
                raise OperationError(
                    f"{name} lacks events that the ledger has trimmed (shard {shard}): run it as an"
                    " optional sink until `creditgate export status` shows no lag"
                )
        recorded = await list_exporters(client, keys)
        if not reset_progress and recorded.store_id not in (None, store.store_id):
            known = await asyncio.to_thread(_progress_of_sinks, settings, recorded)
            for sink, places in known.items():
                await store.note_sink(sink, places)
        await Leases(RedisRunner(client), keys, "adopt").adopt(store.store_id, name)
    finally:
        await store.close()


def _progress_of_sinks(
    settings: Settings, recorded: ExporterList
) -> Mapping[str, Mapping[int, Place]]:
    """How far each optional sink has been fed from the store that the ledger has recorded, which may be
    one of them. Without it a sink that begins with what is new would miss what was on its way."""
    sinks = list(settings.optional_sinks())
    if not sinks:
        return {}
    for name, access in readable_sinks(settings).items():
        try:
            with access.open_or_empty() as store:
                if store.store_id() == recorded.store_id:
                    return {
                        sink: store.cursors() if sink == name else store.sink_cursors(sink)
                        for sink in sinks
                    }
        except StoreMissing:
            continue  # the recorded one may be another
    raise OperationError(
        f"how far {', '.join(sinks)} have been fed is known to the present store,"
        f" {recorded.store_name!r}, which is not among the sinks or cannot be read: keep it as a sink"
        " while you adopt, or let every sink begin as a new one with --reset-progress"
    )
