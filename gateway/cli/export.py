"""`export`: the exporter alone, for a gate that runs without one or on another machine."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from gateway.app.backend import open_endpoint
from gateway.cli import app
from gateway.cli.context import explained, read_settings
from gateway.cli.output import err, plain
from gateway.exporter.main import run_exporter
from gateway.exporter.pump import PumpOptions
from gateway.exporter.sinks.registry import build_store
from gateway.exporter.tally import Tally
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.outbox import Outbox
from gateway.ledger.shards import Shards
from gateway.settings import Settings


@app.command()
def export(
    file: Annotated[
        Path, typer.Argument(envvar="CREDITGATE_CONFIG", help="The configuration of the gate.")
    ] = Path("config/gateway.yaml"),
) -> None:
    """Deliver events from the ledger to the store until SIGTERM or Ctrl-C, then flush and exit."""
    settings = read_settings(file)
    with explained():
        tally = asyncio.run(_export(settings))
    delivered = f"{tally.delivered} events delivered, {tally.duplicates} were there already"
    err.print(plain(f"{delivered}, {tally.dead_letters} dead letters, {tally.anomalies} anomalies"))


async def _export(settings: Settings) -> Tally:
    redis = settings.redis
    with open_endpoint(settings) as endpoint:
        client = endpoint.client(name="creditgate-exporter", max_connections=128)
        try:
            return await run_exporter(
                Outbox(client, redis.shards, namespace=redis.namespace),
                Shards(RedisRunner(client), Keys(redis.namespace, redis.shards)),
                build_store(settings.required_store()),
                options=export_options(settings),
                grace_s=settings.listen.drain_grace_ms / 1000,
            )
        finally:
            await client.aclose()


def export_options(settings: Settings) -> PumpOptions:
    """The pump's options as configured."""
    section = settings.export
    return PumpOptions(batch_limit=section.batch_events, linger_s=section.interval_ms / 1000)
