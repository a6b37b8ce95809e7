"""Which class writes to what is configured, and which one reads it back. One line for each kind of sink.

A sink's module is imported when one of its kind is configured, because its driver may not be installed.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

from gateway.domain.stores import StoreAccess
from gateway.exporter.signal_schedule import SignalSchedule
from gateway.exporter.sink import Sink, Store
from gateway.exporter.sinks.options import (
    ClickHouseOptions,
    KafkaOptions,
    NatsOptions,
    PostgresOptions,
    SinkOptions,
    SqliteOptions,
)
from gateway.exporter.sinks.options_http import HttpOptions
from gateway.exporter.sinks.options_parquet import ParquetOptions
from gateway.exporter.sinks.options_stripe import StripeOptions

_SINKS: Final[Mapping[type[SinkOptions], str]] = {
    SqliteOptions: "sqlite:SqliteSink",
    ParquetOptions: "parquet:ParquetSink",
    HttpOptions: "http:HttpSink",
    StripeOptions: "stripe:StripeSink",
    PostgresOptions: "postgres:PostgresSink",
    ClickHouseOptions: "clickhouse:ClickHouseSink",
    KafkaOptions: "kafka:KafkaSink",
    NatsOptions: "nats:NatsSink",
}
"""Options → module and class of the sink."""

_READERS: Final[Mapping[type[SinkOptions], str]] = {
    SqliteOptions: "sqlite_reader:SqliteAccess",
    PostgresOptions: "postgres_access:PostgresAccess",
    ClickHouseOptions: "clickhouse_reader:ClickHouseAccess",
}
"""Options of the stores → module and class of the access: what may be `export.required`."""

_SCHEDULES: Final[Mapping[type[SinkOptions], str]] = {
    SqliteOptions: "sqlite_signals:SqliteSchedule",
    PostgresOptions: "postgres_signals:PostgresSchedule",
}
"""Options of the stores that can send webhooks → module and class of the schedule."""

_EXTRAS: Final[Mapping[str, str]] = {
    "parquet": "parquet",
    "postgres": "postgres",
    "postgres_reader": "postgres",
    "postgres_signals": "postgres",
    "kafka": "kafka",
    "nats": "nats",
}
"""Module of a sink → the extra that installs its driver."""


class DriverMissing(Exception):
    """The driver of a configured sink is not installed; the message says how to install it."""


def readable(options: SinkOptions) -> bool:
    """Whether a sink of this kind can be the required store."""
    return type(options) in _READERS


def build_sink(options: SinkOptions) -> Sink:
    """The sink of these options, not open yet. Raises DriverMissing."""
    sink: Sink = _load(_SINKS[type(options)])(options)
    return sink


def build_store(options: SinkOptions) -> Store:
    """The same for a kind that is `readable`. Raises DriverMissing."""
    sink = build_sink(options)
    assert isinstance(sink, Store), "what has a reader is a store"
    return sink


def build_access(options: SinkOptions) -> StoreAccess:
    """How to read the store of these options; they must be `readable`. Raises DriverMissing."""
    access: StoreAccess = _load(_READERS[type(options)])(options)
    return access


def can_schedule(options: SinkOptions) -> bool:
    """Whether a store of this kind keeps the webhook's schedule."""
    return type(options) in _SCHEDULES


def build_schedule(options: SinkOptions) -> SignalSchedule:
    """The schedule of a store that `can_schedule`. Raises DriverMissing."""
    schedule: SignalSchedule = _load(_SCHEDULES[type(options)])(options)
    return schedule


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    try:
        return getattr(import_module(f"gateway.exporter.sinks.{module}"), name)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(module)
        if extra is None:
            raise
        raise DriverMissing(
            f"{error.name} is not installed: pip install 'creditgate[{extra}]'"
        ) from error
