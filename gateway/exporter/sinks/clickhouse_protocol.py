"""What ClickHouse's HTTP interface takes and says, without any I/O: used by the sink and the reader.

Statements are the same for every server; what only newer servers have is asked for once (`PROBE`) and left
out where it is missing.
"""

import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.domain.event_rows import COLUMNS, EventRow
from gateway.exporter.sinks.options import ClickHouseOptions

IDLE_S: Final = 2.0
"""How long an idle connection is kept. Servers close them after 3 s (up to 23.x) or more, and a statement
that meets the closing fails."""

_OPTIONAL: Final = (
    "JSONColumns",
    "JSONExtractString",
    "async_insert",
    "insert_deduplication_token",
    "use_skip_indexes_if_final",
)
_NAMED: Final = "WHERE name IN (" + ", ".join(f"'{name}'" for name in _OPTIONAL) + ")"
PROBE: Final = " UNION ALL ".join(
    (
        "SELECT concat('version ', version()) AS name",
        f"SELECT name FROM system.settings {_NAMED}",  # noqa: S608 - names from above
        f"SELECT name FROM system.formats {_NAMED}",  # noqa: S608 - names from above
        f"SELECT name FROM system.functions {_NAMED}",  # noqa: S608 - names from above
    )
)
"""Asks for the version and the optional features, one name a line, in tables that every user may read."""

_UNKNOWN_USER: Final = frozenset({192, 193, 194, 516})
_NO_RIGHT: Final = frozenset({164, 291, 497})
MISSING: Final = frozenset({60, 81})
"""Codes of a table or database that does not exist."""
_CODE: Final = re.compile(r"Code: (\d+)[.,] *(?:e\.displayText\(\) = )?(?:DB::Exception: )?")
_NAME: Final = re.compile(r"\(([A-Z_]{4,})\)")
_MESSAGE_CHARS: Final = 300
_LIVEMODE: Final = COLUMNS.index("livemode")


class Refused(Exception):
    """The server has refused a statement; the message says why, for people. code: ClickHouse's; 0 if it
    gave none"""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Server:
    """A server's version, and which of the optional features it has."""

    version: str
    features: frozenset[str]

    @classmethod
    def of(cls, probed: Iterable[dict[str, Any]]) -> "Server":
        """Read the answer to `PROBE`."""
        names = {line["name"] for line in probed}
        version = next(name for name in names if name.startswith("version "))
        return cls(version.removeprefix("version "), frozenset(names))

    @property
    def modern(self) -> bool:
        """Whether it is of the middle of 2022 or newer: it has low cardinality, data skipping indexes, inserts
        that are synced, and columns as JSON."""
        return "JSONColumns" in self.features

    def select_settings(self, *, spills: bool = False) -> dict[str, str]:
        """Parameters of a statement that reads. spills: large groups and sorts go to the server's disk"""
        settings = {"output_format_json_quote_64bit_integers": "0", "join_use_nulls": "0"}
        if "use_skip_indexes_if_final" in self.features:
            settings["use_skip_indexes_if_final"] = "1"
        if spills:
            settings["max_bytes_before_external_group_by"] = "2000000000"
            settings["max_bytes_before_external_sort"] = "2000000000"
        return settings

    def insert_settings(self, token: str | None = None) -> dict[str, str]:
        """Parameters of a statement that writes: it returns when the rows are in the table, not in a buffer."""
        settings = {}
        if "async_insert" in self.features:
            settings["async_insert"] = "0"
        if token is not None and "insert_deduplication_token" in self.features:
            settings["insert_deduplication_token"] = token
        return settings


def headers(options: ClickHouseOptions) -> dict[str, str]:
    """Who asks."""
    return {"X-ClickHouse-User": options.user, "X-ClickHouse-Key": options.password}


def tls(options: ClickHouseOptions) -> ssl.SSLContext | bool:
    """How the server's certificate is checked: against the system's authorities, or those that SSL_CERT_FILE
    names. Loading them takes 50 ms of CPU: not for plain HTTP."""
    return ssl.create_default_context() if options.url.startswith("https:") else True


def refused(options: ClickHouseOptions, body: str, *, quote: bool) -> Refused:
    """What the server's answer means. quote: its text may be shown; of an insert it can contain events"""
    found = _CODE.search(body)
    code = int(found[1]) if found else 0
    if code in _UNKNOWN_USER:
        return Refused(code, f"user {options.user!r} or its password is not accepted")
    said = _NAME.search(body)
    text = said[1] if said else f"code {code}"
    if quote or code in _NO_RIGHT:
        text = " ".join(body[found.end() if found else 0 :].split())[:_MESSAGE_CHARS]
    if code in _NO_RIGHT:
        return Refused(code, f"user {options.user!r} lacks a right: {text}")
    return Refused(code, f"the server has refused a statement: {text}")


def literal(value: int | str) -> str:
    """A value in the text of a statement: servers of 2018 have no parameters."""
    if isinstance(value, int):
        return str(int(value))
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\0", "\\0")
    return f"'{escaped}'"


def literals(values: Iterable[int | str]) -> str:
    """A list of them, for IN; it must not be empty."""
    return "(" + ", ".join(map(literal, values)) + ")"


def lines(body: bytes) -> list[dict[str, Any]]:
    """Read an answer in the format JSONEachRow."""
    return [orjson.loads(line) for line in body.split(b"\n") if line]


def row_from(line: dict[str, Any]) -> EventRow:
    """A row from a line that begins with the columns of an event; a boolean is stored as 0 or 1."""
    values = list(line.values())[: len(COLUMNS)]
    if values[_LIVEMODE] is not None:
        values[_LIVEMODE] = bool(values[_LIVEMODE])
    return EventRow._make(values)
