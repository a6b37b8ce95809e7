"""An exporter to be killed: `killable.py SOCKET OPTIONS SHARDS [die-before-ack]`.

OPTIONS are pickled `SinkOptions` in base64. With the last argument it kills itself (-9) after the sink's
commit, before the acknowledgement.
"""

import asyncio
import base64
import os
import pickle
import signal
import sys
from pathlib import Path

from gateway.exporter.main import Exporter, run_exporter
from gateway.exporter.pacing import PumpOptions
from gateway.exporter.sinks.options import SinkOptions
from gateway.exporter.sinks.registry import build_sink
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.outbox import Outbox
from tests.support.outbox_writer import OutboxWriter


class DiesFirst(OutboxWriter):
    """Instead of acknowledging."""

    async def ack(self, shard: int, epoch: int, seq: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


async def main(socket: Path, sink: SinkOptions, shards: int, dies: bool) -> None:
    client = Endpoint.from_socket(socket).client(name="exporter", max_connections=32)
    acknowledger = DiesFirst(client, shards) if dies else OutboxWriter(client, shards)
    options = PumpOptions(batch_limit=50, linger_s=0.001, block_ms=50, backoff_max_s=0.1)
    exporter = Exporter(Outbox(client, shards), acknowledger, build_sink(sink), options=options)
    await run_exporter(exporter)
    await client.aclose()


if __name__ == "__main__":
    sink_options = pickle.loads(base64.b64decode(sys.argv[2]))
    asyncio.run(main(Path(sys.argv[1]), sink_options, int(sys.argv[3]), sys.argv[4:] != []))
