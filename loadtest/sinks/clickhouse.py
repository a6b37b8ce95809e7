"""What ClickHouse costs the exporter: `python -m loadtest.sinks.clickhouse [--events 200000] [--debian]`.

The server is ClickHouse 26 in a process of Python, or Debian's of 2018. It is killed and started again in the
middle of the last run; the table must then have every event once.
"""

import argparse
import asyncio
import http.client
import signal
import tempfile
import time
import urllib.parse
from pathlib import Path

from gateway.domain.event_rows import EventRow
from gateway.exporter.sinks.clickhouse import ClickHouseSink
from gateway.exporter.sinks.clickhouse_encoding import INSERTED, encode
from gateway.exporter.sinks.options import ClickHouseOptions
from loadtest.sinks.clickhouse_server import ClickHouseServer, running
from loadtest.sinks.measuring import (
    BATCH,
    Speed,
    Stopwatch,
    measure_exporter,
    outbox_server,
    read_rows,
)


async def load(
    server: ClickHouseServer, options: ClickHouseOptions, rows: list[EventRow], events: int
) -> Speed:
    """Insert the same bodies, encoded before, one after the other over one connection and nothing else."""
    sink = ClickHouseSink(options)  # makes the table
    await sink.open()
    await sink.close()
    bodies = [
        encode(
            [row._replace(seq=first + i, event_id=f"{first + i}") for i, row in enumerate(rows)],
            stored_at_ms=0,
            position=first + 1,
            columns=not server.debian,
        )
        for first in range(0, events, BATCH)
    ]
    form = "JSONEachRow" if server.debian else "JSONColumns"
    parameters = {
        "database": options.database,
        "query": f"INSERT INTO events ({', '.join(INSERTED)}) FORMAT {form}",
    }
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    watch = Stopwatch()
    for body in bodies:
        connection.request("POST", f"/?{urllib.parse.urlencode(parameters)}", body)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
    return watch.speed(len(bodies) * BATCH)


def run(server: ClickHouseServer, events: int) -> None:
    """Print the loader's line, the exporter's, and the exporter's with the restart."""

    def restart() -> None:
        server.stop(signal.SIGKILL)
        time.sleep(0.5)
        server.start()

    with outbox_server() as socket:
        rows = asyncio.run(read_rows(socket))
        print("bare loader:      ", asyncio.run(load(server, server.options(), rows, events)))
        for name, interruption in (("exporter:         ", None), ("exporter, restart:", restart)):
            options = server.options()
            speed, figures = asyncio.run(measure_exporter(socket, options, events, interruption))
            print(name, speed)
            question = (
                "SELECT count() AS stored, uniqExact(event_id) AS different FROM events FINAL"
            )
            (found,) = server.ask(question, options.database)
            lost, doubled = events - found["different"], found["stored"] - found["different"]
            print(f"  lost {lost}, doubled {doubled}, {figures['retries']:.0f} waits")
            assert lost == doubled == 0


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--debian", action="store_true", help="Debian's server instead")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), debian=given.debian) as server,
    ):
        run(server, given.events)


if __name__ == "__main__":
    main()
