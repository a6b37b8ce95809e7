"""A result as rows and columns, to be shown as a table, CSV, JSON or Parquet (`gateway/cli/sheets.py`).

Values stay exact: quantities and amounts are integers here, and decimals wherever they are written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, Literal

from gateway.domain.money import format_amount

_RISKY: Final = ("=", "+", "-", "@", "\t", "\r")
"""Text that begins so is run as a formula by spreadsheets."""
Kind = Literal["text", "count", "credits", "percent"]
Value = str | int | Fraction | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column. kind: text, a count (int), credits (int of nano-credits), or percent (Fraction).

    rare: left out of tables where every row has 0
    """

    name: str
    kind: Kind = "text"
    rare: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """Rows of values in the order of the columns; the sum of all rows, with "" for texts."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    total: Sequence[Value] | None = None


def shown(value: Value, kind: Kind) -> str | int | None:
    """A value as JSON and CSV have it: credits and percents as decimal strings."""
    if value is None or isinstance(value, str):
        return value
    if kind == "percent":
        return str(percent_decimal(Fraction(value)))
    assert isinstance(value, int)
    return format_amount(value) if kind == "credits" else value


def csv_cell(value: Value, kind: Kind) -> str | int | None:
    """A value as CSV has it: the same, and text that spreadsheets do not run."""
    return harmless(value) if isinstance(value, str) else shown(value, kind)


def harmless(text: str) -> str:
    """Text as a spreadsheet shows it and does not run it. Projects, keys and models may be named by
    whoever sends requests."""
    if not text.startswith(_RISKY) or (text[0] == "-" and text[1:].replace(".", "", 1).isdigit()):
        return text
    return f"'{text}"


def percent_decimal(share: Fraction) -> Decimal:
    """A percentage with two decimals, halves to even."""
    return Decimal(round(share * 100)).scaleb(-2)


def sheet_document(sheet: Sheet) -> dict[str, Any]:
    """The sheet as a JSON document."""
    document: dict[str, Any] = {"lines": [_named(sheet, row) for row in sheet.rows]}
    if sheet.total is not None:
        sums = [column.name for column in sheet.columns if column.kind != "text"]
        total = _named(sheet, sheet.total)
        document["total"] = {name: total[name] for name in sums}
    return document


def _named(sheet: Sheet, row: Sequence[Value]) -> Mapping[str, str | int | None]:
    pairs = zip(sheet.columns, row, strict=True)
    return {column.name: shown(value, column.kind) for column, value in pairs}
