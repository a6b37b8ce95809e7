"""What the sinks are configured with, as values. No driver is imported here: a sink that is not configured
needs none."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SqliteOptions:
    """path: of the database file"""

    path: Path


@dataclass(frozen=True, slots=True)
class ClickHouseOptions:
    """url: of the HTTP interface, without credentials; timeout_ms: for one statement"""

    url: str
    database: str = "creditgate"
    user: str = "default"
    password: str = field(default="", repr=False)
    timeout_ms: int = 30_000


SinkOptions = SqliteOptions | ClickHouseOptions
