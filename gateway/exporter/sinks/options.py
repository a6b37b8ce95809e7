"""What the sinks are configured with, as values. No driver is imported here: a sink that is not configured
needs none."""

from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """TLS to a server.

    verify:  check its certificate and name
    ca_file: certificates to trust instead of the system's, PEM
    """

    verify: bool = True
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """servers: host:port of some brokers
    mechanism: of SASL, used if there is a username
    timeout_s: after which a message that no broker has acknowledged counts as undelivered
    settings:  of librdkafka, by its names
    """

    servers: tuple[str, ...]
    topic: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    mechanism: str = "SCRAM-SHA-512"
    tls: TlsOptions | None = None
    compression: str = "lz4"
    timeout_s: float = 15.0
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class NatsOptions:
    """servers:         nats:// or tls:// URLs without credentials
    subject:            template with {kind} and {customer_id}
    create_stream:      create the stream if it does not exist
    max_replay_age_ms:  below the stream's duplicate window
    window:             messages that may wait for their acknowledgement
    timeout_s:          without any acknowledgement after which the connection counts as lost
    """

    servers: tuple[str, ...]
    stream: str
    subject: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    tls: TlsOptions | None = None
    create_stream: bool = False
    max_replay_age_ms: int = 3_600_000
    window: int = 4096
    timeout_s: float = 15.0


SinkOptions = (
    SqliteOptions
    | PostgresOptions
    | ClickHouseOptions
    | KafkaOptions
    | NatsOptions
    | ParquetOptions
    | HttpOptions
    | StripeOptions
)
