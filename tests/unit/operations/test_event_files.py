"""Raw events in files: every row, as it is in the store."""

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from gateway.domain.event_rows import COLUMNS, EventRow, event_of, row_of
from gateway.domain.stores import RowFilter
from gateway.operations import event_files
from gateway.operations.event_files import write_events
from tests.support.stores import sqlite_access
from tests.unit.exporter.sinks.contract import make_event

from .sold import some_events, store_events


@pytest.fixture
async def rows(tmp_path: Path) -> list[EventRow]:
    """Rows as a real store gives them, one of them as awkward as can be."""
    awkward: dict[str, Any] = {
        "event_id": 'a,"\n=1+1:settled',
        "facts": {"model": 'ü\n"x"', "livemode": False, "request_id": "r"},
        "amount_nano": -9_000_000_000_000_000,
    }
    path = tmp_path / "events.db"
    events = some_events(random.Random(7), 40)
    await store_events(path, [*events, make_event(len(events), **awkward)])
    with sqlite_access(path).open() as store:
        found = list(store.rows(RowFilter()))
    assert len(found) == len(events) + 1
    return found


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_files, "CHUNK", 7)


def test_json_lines_have_every_column_and_json_as_values(rows: list[EventRow]) -> None:
    file = io.BytesIO()
    done = write_events(rows, file, "jsonl")
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    assert len(lines) == done.rows == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert list(line) == list(COLUMNS)
        texts = {name: json.dumps(line[name]) for name in ("usage", "allocations", "facts")}
        assert event_of(EventRow(**{**line, **texts})) == event_of(row)


def test_csv_reads_back(rows: list[EventRow]) -> None:
    file = io.BytesIO()
    write_events(rows, file, "csv")
    read = list(csv.DictReader(io.StringIO(file.getvalue().decode(), newline="")))
    shown = [
        {name: "" if value is None else str(value) for name, value in row._asdict().items()}
        for row in rows
    ]
    assert read == shown


def test_parquet_reads_back_with_types(rows: list[EventRow]) -> None:
    file = io.BytesIO()
    write_events(rows, file, "parquet")
    table = pyarrow.parquet.read_table(io.BytesIO(file.getvalue()))
    assert [EventRow(**values) for values in table.to_pylist()] == rows
    assert str(table.schema.field("amount_nano").type) == "int64"


def test_sums_and_progress_are_those_of_the_rows(rows: list[EventRow]) -> None:
    seen: list[int] = []
    done = write_events(rows, io.BytesIO(), "jsonl", seen.append)
    assert seen == [*range(7, len(rows), 7), len(rows)]
    charges = [r.amount_nano for r in rows if r.kind in ("settle", "expire", "settle_late")]
    assert done.charged_nano == sum(charges)
    assert sum(done.amounts_nano.values()) == sum(row.amount_nano for row in rows)


def test_csv_has_no_formulas(rows: list[EventRow]) -> None:
    """A gateway in front passes on what callers name their projects."""
    file = io.BytesIO()
    write_events([rows[0]._replace(project_id='=HYPERLINK("//evil.example")')], file, "csv")
    [read] = csv.DictReader(io.StringIO(file.getvalue().decode(), newline=""))
    assert read["project_id"] == '\'=HYPERLINK("//evil.example")'


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_nothing_is_a_file_too(form: event_files.EventFormat) -> None:
    file = io.BytesIO()
    assert write_events([], file, form).rows == 0
    assert bool(file.getvalue()) is (form != "jsonl")


def test_an_event_and_its_row_agree() -> None:
    event = make_event(3)
    assert event_of(row_of(event)) == event
