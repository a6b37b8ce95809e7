"""The index's file: its tables, opening it, and beginning again.

Labels and outcomes are kept once and referred to by number. Hours and days are numbers since 1970, UTC.
Amounts are nano-credits. STRICT tables: a sum beyond 64 bits is an error, not a float.
"""

import os
import sqlite3
from pathlib import Path
from typing import Final

FORMAT: Final = 1
"""Raise it when a table or its meaning changes: a file of another format is built again."""

UNITS: Final = ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning")
"""Units with columns of their own; others have a line each."""
AMOUNTS: Final = (
    "events",
    "requests",
    "charged_nano",
    "corrected_nano",
    "cost_nano",
    "uncosted_nano",
)
SUMS: Final = (*AMOUNTS, *(f"{unit}_quantity" for unit in UNITS))
"""Columns of a sum, in order."""

_SUM_COLUMNS: Final = ", ".join(f"{name} INTEGER NOT NULL" for name in SUMS)
_TABLES: Final = (
    """CREATE TABLE series (
        id INTEGER PRIMARY KEY,
        customer_id TEXT NOT NULL, project_id TEXT NOT NULL, key_id TEXT NOT NULL, model TEXT NOT NULL,
        livemode INTEGER NOT NULL, mode TEXT NOT NULL, shadow INTEGER NOT NULL,
        requests INTEGER NOT NULL DEFAULT 0,
        UNIQUE (customer_id, project_id, key_id, model, livemode, mode)
    ) STRICT""",
    """CREATE TABLE outcomes (
        id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL, status INTEGER NOT NULL, flags TEXT NOT NULL,
        requests INTEGER NOT NULL DEFAULT 0,
        UNIQUE (kind, status, flags)
    ) STRICT""",
    "CREATE TABLE price_versions (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT",
    *(
        statement
        for size in ("hour", "day")
        for statement in (
            f"""CREATE TABLE {size}s ({size} INTEGER NOT NULL, series INTEGER NOT NULL, {_SUM_COLUMNS},
                PRIMARY KEY ({size}, series)) STRICT, WITHOUT ROWID""",
            f"""CREATE TABLE {size}_units ({size} INTEGER NOT NULL, series INTEGER NOT NULL,
                unit TEXT NOT NULL, quantity INTEGER NOT NULL,
                PRIMARY KEY ({size}, series, unit)) STRICT, WITHOUT ROWID""",
        )
    ),
    """CREATE TABLE requests (
        id INTEGER PRIMARY KEY,
        at_ms INTEGER NOT NULL, request_id TEXT NOT NULL,
        series INTEGER NOT NULL, outcome INTEGER NOT NULL, price_version INTEGER,
        amount_nano INTEGER NOT NULL, duration_ms INTEGER
    ) STRICT""",
    "CREATE INDEX requests_by_time ON requests (at_ms)",
    "CREATE INDEX requests_by_series ON requests (series, at_ms)",
    "CREATE INDEX requests_by_outcome ON requests (outcome, at_ms)",
    """CREATE TABLE places (
        shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL
    ) STRICT""",
    """CREATE TABLE gaps (
        shard INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
        PRIMARY KEY (shard, epoch, seq)
    ) STRICT, WITHOUT ROWID""",
    "CREATE TABLE about (store_id TEXT) STRICT",
)


def open_to_write(path: Path) -> sqlite3.Connection:
    """Open the file, private to its owner; a damaged file or another format begins again.

    Raises sqlite3.Error, OSError.
    """
    try:
        return _opened(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        remove(path)
        return _opened(path)


def remove(path: Path) -> None:
    """Remove the file with what belongs to it."""
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open the file for one question. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA mmap_size = 1073741824")
    return connection


def begin_again(connection: sqlite3.Connection) -> None:
    """Drop what is there and make empty tables, in one transaction: readers see one or the other."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        for (name,) in names:
            connection.execute(f"DROP TABLE {name}")
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {FORMAT}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _opened(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        ((found,),) = connection.execute("PRAGMA user_version")
        if found != FORMAT:
            begin_again(connection)
    except BaseException:
        connection.close()
        raise
    return connection
