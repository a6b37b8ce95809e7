"""`export`: the exporter alone, for a gate that runs without one or on another machine."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from gateway.app.backend import open_endpoint
from gateway.app.exporting import assemble_exporter, member
from gateway.cli import app
from gateway.cli.context import explained, read_settings
from gateway.cli.output import err, plain
from gateway.exporter.main import run_exporter
from gateway.exporter.tally import Tally
from gateway.ledger.client.redis_runner import RedisRunner
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
    with open_endpoint(settings) as endpoint:
        client = endpoint.client(name="creditgate-exporter", max_connections=128)
        try:
            # More than one may run on a machine, so each is a member of its own.
            name = f"{member(settings)}-{os.getpid()}"
            exporter = assemble_exporter(settings, client, RedisRunner(client), name)
            return await run_exporter(exporter, grace_s=settings.listen.drain_grace_ms / 1000)
        finally:
            await client.aclose()
