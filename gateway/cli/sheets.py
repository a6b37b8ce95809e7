"""Shows a sheet as a table, CSV, JSON or Parquet, on stdout or in a file."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import typer

from gateway.cli.files import complete_file
from gateway.cli.output import fail, out, print_json, row, table
from gateway.operations.parquet import parquet
from gateway.operations.sheets import (
    Column,
    Sheet,
    Value,
    csv_cell,
    percent_decimal,
    sheet_document,
    shown,
)

Format = Literal["table", "csv", "json", "parquet"]
AsFormat = Annotated[
    Format, typer.Option("--format", "-f", help="Parquet goes into a file: --output.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write into this file, when it is complete; stdout without it.",
    ),
]


@dataclass(frozen=True, slots=True)
class Answer:
    """How a sheet is wanted. output: the file, or stdout"""

    form: Format
    output: Path | None = None


def show_sheet(sheet: Sheet, answer: Answer, about: Mapping[str, Any] | None = None) -> None:
    """Print a sheet, or write it. about: what else a JSON document says. Raises OperationError."""
    form = answer.form
    if answer.output is not None:
        content = _content(sheet, form, about or {})
        with complete_file(answer.output) as file:
            file.write(content)
        return
    match form:
        case "table":
            _print(sheet)
        case "json":
            print_json({**(about or {}), **sheet_document(sheet)})
        case "csv":
            typer.echo(_csv(sheet), nl=False)
        case "parquet":
            raise fail("Parquet is not text: name a file with --output", 2)


def _content(sheet: Sheet, form: Format, about: Mapping[str, Any]) -> bytes:
    match form:
        case "csv":
            return _csv(sheet).encode()
        case "json":
            return orjson.dumps({**about, **sheet_document(sheet)}) + b"\n"
        case "parquet":
            return _parquet(sheet)
        case "table":
            raise fail("a table is for the terminal: choose --format csv, json or parquet", 2)


def _print(sheet: Sheet) -> None:
    kept = [
        at
        for at, column in enumerate(sheet.columns)
        if not column.rare or any(values[at] for values in sheet.rows)
    ]
    columns = [sheet.columns[at] for at in kept]
    names = [column.name.replace("_", " ") for column in columns]
    numbers = [name for name, column in zip(names, columns, strict=True) if column.kind != "text"]
    made = table(*names, right=numbers, whole=names)
    for values in sheet.rows:
        row(made, [_cell(values[at], sheet.columns[at]) for at in kept])
    if sheet.total is not None:
        total = [_cell(sheet.total[at], sheet.columns[at]) for at in kept]
        texts = sum(column.kind == "text" for column in columns)
        row(made, ["all", *[""] * (texts - 1), *total[texts:]][: len(kept)], "bold")
    out.print(made)


def _cell(value: Value, column: Column) -> str:
    if value is None:
        return ""
    if column.kind == "count":
        return f"{value:,}"
    return str(shown(value, column.kind)) or "–"


def _csv(sheet: Sheet) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.name for column in sheet.columns)
    for values in sheet.rows:
        pairs = zip(values, sheet.columns, strict=True)
        writer.writerow(csv_cell(value, column.kind) for value, column in pairs)
    return text.getvalue()


def _parquet(sheet: Sheet) -> bytes:
    """The rows with exact decimals: credits with nine of them, percents with two."""
    pa, pq = parquet()
    types = {
        "text": pa.string(),
        "count": pa.int64(),
        "credits": pa.decimal128(38, 9),
        "percent": pa.decimal128(18, 2),
    }
    columns = zip(*sheet.rows, strict=True) if sheet.rows else [[]] * len(sheet.columns)
    arrays = [
        pa.array([_exact(value, column) for value in values], types[column.kind])
        for values, column in zip(columns, sheet.columns, strict=True)
    ]
    sink = io.BytesIO()
    pq.write_table(pa.table(arrays, names=[column.name for column in sheet.columns]), sink)
    return sink.getvalue()


def _exact(value: Value, column: Column) -> Any:
    if value is None or column.kind in ("text", "count"):
        return value
    if column.kind == "percent":
        return percent_decimal(Fraction(value))
    assert isinstance(value, int)
    return Decimal(value).scaleb(-9)
