"""From a configuration to its sinks, and to the store that is read back."""

from typing import Any

from gateway.domain.delivery import START
from gateway.domain.stores import StoreAccess
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
from gateway.ledger.exporters import Leases
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


async def adopt_store(settings: Settings, client: Any) -> None:
    """Record the configured required store as the ledger's.

    Raises OperationError if it lacks what the ledger has trimmed, StoreInUse, SinkUnavailable,
    LedgerUnavailable, DriverMissing.
    """
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
        await Leases(RedisRunner(client), keys, "adopt").adopt(store.store_id, name)
    finally:
        await store.close()
