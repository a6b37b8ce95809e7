"""What the embedded store costs the exporter: `python -m loadtest.sinks.sqlite [--events 200000]`."""

import argparse
import asyncio
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from gateway.domain.event_rows import COLUMNS, EventRow
from gateway.exporter.sinks.options import SqliteOptions
from gateway.exporter.sinks.sqlite import SqliteSink
from loadtest.exporter_cost import SHARDS
from loadtest.sinks.measuring import (
    BATCH,
    Speed,
    Stopwatch,
    measure_exporter,
    outbox_server,
    read_rows,
)

_STORED = [
    name
    for name in COLUMNS
    if name not in ("project_id", "key_id", "route", "model", "upstream", "livemode")
]


async def load(options: SqliteOptions, rows: list[EventRow], events: int) -> Speed:
    """Make the same inserts and syncs, and nothing else."""
    sink = SqliteSink(options)  # makes the tables
    await sink.open()
    await sink.close()
    indices = [COLUMNS.index(name) for name in _STORED]
    insert = (
        f"INSERT INTO events (stored_at_ms, {', '.join(_STORED)})"
        f" VALUES (0{', ?' * len(_STORED)}) ON CONFLICT DO NOTHING"
    )
    batches = [
        [
            tuple((*row[:1], row.shard, row.epoch, first + i, *row[4:])[n] for n in indices)
            for i, row in enumerate(
                each._replace(event_id=f"{first + i}") for i, each in enumerate(rows)
            )
        ]
        for first in range(0, events, BATCH)
    ]
    with closing(sqlite3.connect(options.path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        watch = Stopwatch()
        for batch in batches:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, batch)
            connection.execute("COMMIT")
        return watch.speed(len(batches) * BATCH)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=200_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, outbox_server() as socket:
        rows = asyncio.run(read_rows(socket))
        bare = SqliteOptions(Path(folder) / "bare.db")
        print("bare loader:      ", asyncio.run(load(bare, rows, given.events)))
        options = SqliteOptions(Path(folder) / "events.db")
        speed, _ = asyncio.run(measure_exporter(socket, options, given.events, None))
        print("exporter:         ", speed)
        with closing(sqlite3.connect(options.path)) as connection:
            ((stored, different),) = connection.execute(
                "SELECT count(*), count(DISTINCT event_id) FROM events"
            )
        lost, doubled = given.events // SHARDS * SHARDS - different, stored - different
        print(f"  lost {lost}, doubled {doubled}")
        assert lost == doubled == 0


if __name__ == "__main__":
    main()
