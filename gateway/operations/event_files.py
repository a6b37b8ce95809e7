"""Raw events as files: one JSON document a line, CSV, or Parquet, with the columns of every store.

Rows are written as they are read, so a file may be larger than the memory.
"""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO, Final, Literal, Protocol

import orjson

from gateway.domain.event_rows import COLUMNS, EventRow
from gateway.operations.parquet import parquet
from gateway.operations.sheets import harmless

EventFormat = Literal["jsonl", "csv", "parquet"]
CHUNK: Final = 10_000
_WHOLE: Final = frozenset(
    {
        *("shard", "epoch", "seq", "occurred_at_ms"),
        *("amount_nano", "estimated_amount_nano", "cost_nano", "balance_nano"),
    }
)
_CHARGES: Final = frozenset({"settle", "expire", "settle_late"})


@dataclass(slots=True)
class Exported:
    """What a file has. amounts_nano: sum of the amounts by kind"""

    rows: int = 0
    amounts_nano: dict[str, int] = field(default_factory=dict)

    @property
    def charged_nano(self) -> int:
        """The sum of all charges."""
        return sum(nano for kind, nano in self.amounts_nano.items() if kind in _CHARGES)


class _Writer(Protocol):
    def write(self, rows: Sequence[EventRow]) -> None: ...

    def end(self) -> None: ...


def write_events(
    rows: Iterable[EventRow],
    file: BinaryIO,
    form: EventFormat,
    progress: Callable[[int], None] | None = None,
) -> Exported:
    """Write rows in their order. progress: called with how many are written.

    Raises OperationError if Parquet is wanted and pyarrow is not installed.
    """
    writer, done, rest = _WRITERS[form](file), Exported(), iter(rows)
    while chunk := list(islice(rest, CHUNK)):
        writer.write(chunk)
        for row in chunk:
            done.amounts_nano[row.kind] = done.amounts_nano.get(row.kind, 0) + row.amount_nano
        done.rows += len(chunk)
        if progress is not None:
            progress(done.rows)
    writer.end()
    return done


class _Jsonl:
    """One object a line; what is JSON already becomes a part of it unread."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, rows: Sequence[EventRow]) -> None:
        dumps, embedded = orjson.dumps, orjson.Fragment
        lines = [
            dumps(
                {
                    **row._asdict(),
                    "usage": embedded(row.usage),
                    "allocations": embedded(row.allocations),
                    "facts": embedded(row.facts),
                },
                option=orjson.OPT_APPEND_NEWLINE,
            )
            for row in rows
        ]
        self._file.write(b"".join(lines))

    def end(self) -> None:
        return


class _Csv:
    """A header, then one line a row; JSON as its text, nothing for what is null; text is not run as a formula."""

    def __init__(self, file: BinaryIO) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        self._writer = csv.writer(self._text, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def write(self, rows: Sequence[EventRow]) -> None:
        for row in rows:
            self._writer.writerow([harmless(it) if isinstance(it, str) else it for it in row])

    def end(self) -> None:
        self._text.flush()
        self._text.detach()


class _Parquet:
    """A row group for each chunk; JSON as strings."""

    def __init__(self, file: BinaryIO) -> None:
        self._pa, self._pq = parquet()
        pa = self._pa
        types: dict[str, Any] = {name: pa.int64() for name in _WHOLE} | {"livemode": pa.bool_()}
        self._schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
        self._writer = self._pq.ParquetWriter(file, self._schema, compression="zstd")

    def write(self, rows: Sequence[EventRow]) -> None:
        pa = self._pa
        columns = zip(*rows, strict=True)
        arrays = [
            pa.array(values, each.type) for values, each in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_table(pa.table(arrays, schema=self._schema))

    def end(self) -> None:
        self._writer.close()


_WRITERS: Final[dict[EventFormat, Callable[[BinaryIO], _Writer]]] = {
    "jsonl": _Jsonl,
    "csv": _Csv,
    "parquet": _Parquet,
}
