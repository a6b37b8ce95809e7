"""Writes Parquet files to a folder or an S3 bucket: one for each run of places of a shard and day.

Invariants: a file's name says exactly which places it has, from the first to the last without a gap, so the same
name always means the same events. A file is never overwritten: it is put only where its name is free. What
existing files already have is not written again, so batches that were cut differently after a kill leave no
event twice; two exporters that write at the same time may, and a reader drops repeats by `event_id`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import pyarrow as pa
import pyarrow.parquet as pq

from gateway.domain.delivery import Place
from gateway.domain.event_rows import COLUMNS, EventRow
from gateway.exporter.sink import Batch, Failure, Sink, SinkUnavailable, Written
from gateway.exporter.sinks.options_parquet import ParquetOptions
from gateway.exporter.sinks.parquet_objects import objects_at
from gateway.exporter.sinks.parquet_runs import Covered, Run, runs

_CONCURRENT: Final = 8
_INTEGERS: Final = frozenset({"epoch", "seq"}) | {
    name for name in COLUMNS if name.endswith(("_ms", "_nano"))
}
_NULLABLE: Final = frozenset(COLUMNS[7:15]) | {"cost_nano"}
"""project_id … price_version, and the cost."""


def _type_of(column: str) -> pa.DataType:
    if column in _INTEGERS:
        return pa.int64()
    return {"shard": pa.int32(), "livemode": pa.bool_()}.get(column, pa.string())


SCHEMA: Final = pa.schema(
    [pa.field(name, _type_of(name), nullable=name in _NULLABLE) for name in COLUMNS]
)
"""The columns of every store; JSON is text."""

_UNWRITABLE: Final = (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError)


class ParquetSink(Sink):
    """Writes to one folder or prefix. It has no cursors and is not read back by the gate."""

    name: ClassVar[str] = "parquet"

    def __init__(self, options: ParquetOptions) -> None:
        self.batch_events = options.batch_events
        self.linger_ms = options.linger_ms
        self._url = options.url
        self._objects = objects_at(options)
        self._covered: Covered | None = None
        self._slots = asyncio.Semaphore(_CONCURRENT)

    def __repr__(self) -> str:
        return f"ParquetSink({self._url!r}, {'open' if self._covered else 'closed'})"

    async def open(self) -> Mapping[int, Place]:
        """Check that the place exists and can be listed."""
        self._covered = None
        await self._objects.check()
        self._covered = Covered()
        return {}

    async def write(self, batch: Batch) -> Written:
        """Put one file for each run of places that no file has yet."""
        covered = self._covered
        if covered is None:
            raise SinkUnavailable("the sink is not open")
        planned = runs(batch.rows)
        for folder in {run.folder for run in planned}:
            if not covered.knows(folder):
                covered.learn(folder, await self._objects.names(folder))
        failed: list[Failure] = []
        missing = [part for run in planned for part in covered.missing(run)]
        ends = await asyncio.gather(
            *(self._put(run, covered, failed) for run in missing), return_exceptions=True
        )
        stored = 0
        for end in ends:
            if isinstance(end, BaseException):
                raise end
            stored += end
        return Written(stored, len(batch.rows) - stored - len(failed), failed)

    async def close(self) -> None:
        """Nothing is kept open between two calls."""
        self._covered = None

    async def _put(self, run: Run, covered: Covered, failed: list[Failure]) -> int:
        """Put a run; how many events are new. Events that Parquet cannot hold drop out."""
        async with self._slots:
            try:
                content = await asyncio.to_thread(encode, run.rows)
            except _UNWRITABLE:
                good = []
                for row in run.rows:
                    reason = _unwritable(row)
                    if reason:
                        failed.append(Failure(row, reason))
                    else:
                        good.append(row)
                stored = 0
                for part in runs(good):
                    stored += await self._create(part, encode(part.rows), covered)
                return stored
            return await self._create(run, content, covered)

    async def _create(self, run: Run, content: bytes, covered: Covered) -> int:
        created = await self._objects.create(run.path, content)
        covered.add(run)
        return len(run.rows) if created else 0


def encode(rows: Sequence[EventRow]) -> bytes:
    """A Parquet file of these rows: the same bytes for the same rows and release of pyarrow.

    Raises what `_UNWRITABLE` lists.
    """
    columns = zip(*rows, strict=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    target = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), target, compression="zstd")
    content: bytes = target.getvalue().to_pybytes()
    return content


def _unwritable(row: EventRow) -> str:
    """Why Parquet cannot hold this row; "" if it can."""
    try:
        encode([row])
    except _UNWRITABLE as error:
        return f"Parquet cannot hold it: {type(error).__name__}"
    return ""
