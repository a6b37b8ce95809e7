"""What the sinks are configured with, as values. No driver is imported here: a sink that is not configured
needs none."""

from dataclasses import dataclass, field
from pathlib import Path

from gateway.exporter.sinks.options_http import HttpOptions
from gateway.exporter.sinks.options_parquet import ParquetOptions
from gateway.exporter.sinks.options_stripe import StripeOptions


@dataclass(frozen=True, slots=True)
class SqliteOptions:
    """path: of the database file"""

    path: Path


@dataclass(frozen=True, slots=True)
class PostgresOptions:
    """url: `postgresql://…`, with the password in it; schema: of the tables; connect_timeout_ms: for one
    connection; timeout_ms: for one statement"""

    url: str = field(repr=False)
    schema: str = "creditgate"
    connect_timeout_ms: int = 10_000
    timeout_ms: int = 30_000


@dataclass(frozen=True, slots=True)
class ClickHouseOptions:
    """url: of the HTTP interface, without credentials; timeout_ms: for one statement"""

    url: str
    database: str = "creditgate"
    user: str = "default"
    password: str = field(default="", repr=False)
    timeout_ms: int = 30_000


SinkOptions = (
    SqliteOptions
    | PostgresOptions
    | ClickHouseOptions
    | ParquetOptions
    | HttpOptions
    | StripeOptions
)
