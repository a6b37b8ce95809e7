"""What the sinks are configured with, as values. No driver is imported here: a sink that is not configured
needs none."""

from dataclasses import dataclass
from pathlib import Path

from gateway.exporter.sinks.options_http import HttpOptions
from gateway.exporter.sinks.options_parquet import ParquetOptions
from gateway.exporter.sinks.options_stripe import StripeOptions


@dataclass(frozen=True, slots=True)
class SqliteOptions:
    """path: of the database file"""

    path: Path


SinkOptions = SqliteOptions | ParquetOptions | HttpOptions | StripeOptions
