"""An exporter to be killed: `killable.py SOCKET STORE SHARDS [die-before-ack]`.

With the last argument it kills itself (-9) after the sink's commit, before the acknowledgement.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from gateway.exporter.main import run_exporter
from gateway.exporter.pump import PumpOptions
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.outbox import Outbox
from tests.support.outbox_writer import OutboxWriter
from tests.support.stores import sqlite_sink


class DiesFirst(OutboxWriter):
    """Instead of acknowledging."""

    async def ack(self, shard: int, epoch: int, seq: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


async def main(socket: Path, store: Path, shards: int, dies: bool) -> None:
    client = Endpoint.from_socket(socket).client(name="exporter", max_connections=32)
    acknowledger = DiesFirst(client, shards) if dies else OutboxWriter(client, shards)
    options = PumpOptions(batch_limit=50, linger_s=0.001, block_ms=50, backoff_max_s=0.1)
    await run_exporter(Outbox(client, shards), acknowledger, sqlite_sink(store), options=options)
    await client.aclose()


asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] != []))
