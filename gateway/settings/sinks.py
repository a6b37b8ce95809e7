"""Sections of the sinks, one for each kind."""

from pathlib import Path

from gateway.exporter.sinks.options import SqliteOptions
from gateway.settings.scalars import Section, field


class SqliteSection(Section):
    """A SQLite database: the embedded store, or a copy."""

    path: Path = field("Database file, relative to `data_dir`.", "events.db", Path("events.db"))

    def compiled(self, data_dir: Path) -> SqliteOptions:
        """Convert to the exporter's form."""
        return SqliteOptions(data_dir / self.path)
