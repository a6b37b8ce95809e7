"""Reads a file of customers to import: CSV, one customer per line, with the columns of `COLUMNS` and any
`external.SYSTEM`.

Whatever can be said of a line without the ledger is checked here. A line that cannot be imported is
rejected with its reason; a file whose columns are wrong is refused as a whole.
"""

import csv
import datetime as dt
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.domain.money import MoneyError, parse_amount
from gateway.domain.suggestions import suggest
from gateway.ledger.codec.operations import CATEGORIES, Category
from gateway.operations.backend import KeyAlgorithm
from gateway.operations.errors import OperationError

COLUMNS: Final = (
    *("id", "plan", "balance", "category", "expiry"),
    *("key_hash", "key_algorithm", "name", "email"),
)
EXTERNAL: Final = "external."
REJECT_COLUMNS: Final = ("line", "reason")
"""Of a file of rejects. They are ignored, so that a corrected one can be imported."""

KEYS_MOST: Final = 20
"""Keys of one line."""

_HASH: Final = re.compile(r"[0-9a-fA-F]{64}")
_PEPPERED: Final = "hmac-sha256"


class _Wrong(ValueError):
    """A line cannot be imported; the message says why."""


@dataclass(frozen=True, slots=True)
class ImportRow:
    """A customer to import.

    line:          where it begins in the file, from 1
    expires_at_ms: of the balance; 0 is never
    key_digests:   hashes of its keys as gates compute them
    cells:         the line as it is in the file, by column
    """

    line: int
    customer_id: str
    plan: str | None
    balance_nano: int
    category: Category
    expires_at_ms: int
    key_digests: tuple[str, ...]
    name: str | None
    email: str | None
    external_ids: Mapping[str, str]
    cells: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that is not imported. balance_nano: what it would have brought; None if unreadable"""

    line: int
    reason: str
    balance_nano: int | None
    cells: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ImportFile:
    """A file that was read. columns: as the file has them, without those of rejects"""

    columns: tuple[str, ...]
    rows: tuple[ImportRow, ...]
    rejected: tuple[Rejected, ...]


def read_import(text: Iterable[str], algorithm: KeyAlgorithm | None, now_ms: int) -> ImportFile:
    """Read a file. algorithm: how gates hash keys; None where they accept none.

    Raises OperationError for a file that is not CSV with the right columns.
    """
    reader = csv.reader(text, strict=True)
    rows: list[ImportRow] = []
    rejected: list[Rejected] = []
    seen: dict[str, int] = {}
    try:
        columns = _columns(next(reader, []))
        line = reader.line_num + 1
        for values in reader:
            begins, line = line, reader.line_num + 1
            cells = dict(zip(columns, map(str.strip, values), strict=False))
            if not any(cells.values()) and len(values) <= len(columns):
                continue
            kept = {name: cells.get(name, "") for name in columns if name not in REJECT_COLUMNS}
            try:
                if len(values) != len(columns):
                    raise _Wrong(f"it has {len(values)} values; the first line has {len(columns)}")
                row = _row(begins, kept, algorithm, now_ms)
                _note_seen(seen, row)
                rows.append(row)
            except _Wrong as wrong:
                rejected.append(Rejected(begins, str(wrong), _readable(kept), kept))
    except csv.Error as error:
        raise OperationError(f"line {reader.line_num} is not CSV: {error}") from error
    shown = tuple(name for name in columns if name not in REJECT_COLUMNS)
    return ImportFile(shown, tuple(rows), tuple(rejected))


def reject(row: ImportRow, reason: str) -> Rejected:
    """A row that turned out not to be importable."""
    return Rejected(row.line, reason, row.balance_nano, row.cells)


def _columns(header: list[str]) -> list[str]:
    columns = [name.strip().lower() for name in header]
    for name in columns:
        system = name.removeprefix(EXTERNAL) if name.startswith(EXTERNAL) else None
        if system == "" or (system is None and name not in (*COLUMNS, *REJECT_COLUMNS)):
            raise OperationError(
                f"{name!r} is not a column of an import. {suggest(name, COLUMNS)} Columns are"
                f" {', '.join(COLUMNS)} and external.SYSTEM, such as external.stripe"
            )
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise OperationError(f"the column {twice[0]} is there twice")
    if "id" not in columns:
        raise OperationError("the first line must name the columns, `id` among them")
    return columns


def _row(
    line: int, cells: Mapping[str, str], algorithm: KeyAlgorithm | None, now_ms: int
) -> ImportRow:
    if not cells["id"]:
        raise _Wrong("it has no id")
    return ImportRow(
        line,
        cells["id"],
        cells.get("plan") or None,
        _balance(cells.get("balance", "")),
        _category(cells.get("category", "")),
        _expiry(cells.get("expiry", ""), now_ms),
        _digests(cells.get("key_hash", ""), cells.get("key_algorithm", ""), algorithm),
        cells.get("name") or None,
        cells.get("email") or None,
        {
            name.removeprefix(EXTERNAL): value
            for name, value in cells.items()
            if name.startswith(EXTERNAL) and value
        },
        cells,
    )


def _balance(text: str) -> int:
    if not text:
        return 0
    try:
        nano = parse_amount(text, signed=True)
    except MoneyError as error:
        raise _Wrong(f"balance: {error}. Write credits as a decimal: 12.50") from error
    if nano < 0:
        raise _Wrong(
            f"balance: {text} is a debt. Import 0, then run `creditgate adjust` with this amount"
        )
    return nano


def _readable(cells: Mapping[str, str]) -> int | None:
    try:
        return _balance(cells.get("balance", ""))
    except _Wrong:
        return None


def _category(text: str) -> Category:
    if text and text not in CATEGORIES:
        raise _Wrong(f"category: {text!r} is none of {', '.join(CATEGORIES)}")
    return text or "paid"


def _expiry(text: str, now_ms: int) -> int:
    if not text:
        return 0
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise _Wrong(f"expiry: {text!r} is not a date. Write 2027-01-31T00:00:00Z") from error
    if moment.tzinfo is None:
        if len(text) > len("2027-01-31"):
            raise _Wrong(f"expiry: {text!r} has no time zone. Write 2027-01-31T00:00:00Z")
        moment = moment.replace(tzinfo=dt.UTC)
    expires_at_ms = int(moment.timestamp() * 1000)
    if expires_at_ms <= now_ms:
        raise _Wrong(f"expiry: {text} has passed, so the balance would be worth nothing")
    return expires_at_ms


def _digests(text: str, named: str, algorithm: KeyAlgorithm | None) -> tuple[str, ...]:
    """The hashes of a line, separated by spaces. The texts are not quoted: one may be a key itself."""
    hashes = tuple(dict.fromkeys(each.lower() for each in text.split()))
    if not hashes:
        return ()
    if not all(map(_HASH.fullmatch, hashes)):
        raise _Wrong("key_hash: must be 64 hexadecimal digits, several of them separated by spaces")
    if len(hashes) > KEYS_MOST:
        raise _Wrong(f"key_hash: a line has at most {KEYS_MOST}")
    if algorithm is None:
        raise _Wrong("key_hash: API keys are disabled by `auth.keys`, so gates accept none")
    given = named.lower()
    if given not in ("sha256", _PEPPERED):
        raise _Wrong(
            f"key_algorithm: {named!r} cannot be checked by a gate; it must be sha256 or {_PEPPERED}."
            " Clear key_hash and create a new key for this customer"
        )
    if given != algorithm:
        set_ = "is" if algorithm == _PEPPERED else "is not"
        raise _Wrong(
            f"key_algorithm: gates hash keys with {algorithm}, since `auth.key_pepper` {set_} set;"
            f" they cannot check {given}. Clear key_hash and create a new key for this customer"
        )
    return hashes


def _note_seen(seen: dict[str, int], row: ImportRow) -> None:
    """Raise for what an earlier row has already; else note what this one has."""
    named = {
        f"the id {row.customer_id}": row.line,
        **{f"the key {digest[:16]}…": row.line for digest in row.key_digests},
        **{f"{EXTERNAL}{name} {value}": row.line for name, value in row.external_ids.items()},
    }
    for what in named:
        if what in seen:
            raise _Wrong(f"line {seen[what]} has {what} already")
    seen.update(named)
