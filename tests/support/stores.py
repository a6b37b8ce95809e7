"""Short ways to an embedded store, for tests."""

from pathlib import Path

from gateway.domain.delivery import Place
from gateway.exporter.sinks.options import SqliteOptions
from gateway.exporter.sinks.sqlite import SqliteSink
from gateway.exporter.sinks.sqlite_reader import SqliteAccess
from gateway.exporter.sinks.sqlite_signals import SqliteSchedule
from gateway.settings import Settings


def events_path(settings: Settings) -> Path:
    """The file of the required store."""
    store = settings.required_store()
    assert isinstance(store, SqliteOptions)
    return store.path


def sqlite_sink(path: Path) -> SqliteSink:
    return SqliteSink(SqliteOptions(path))


def sqlite_access(path: Path) -> SqliteAccess:
    return SqliteAccess(SqliteOptions(path))


def sqlite_schedule(path: Path) -> SqliteSchedule:
    return SqliteSchedule(SqliteOptions(path))


def cursors_at(path: Path) -> dict[int, Place]:
    return sqlite_access(path).cursors()
