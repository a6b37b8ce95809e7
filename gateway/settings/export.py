"""Section for delivery: the required store, the other sinks, and how batches are made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from pydantic import model_validator

from gateway.exporter.sinks.options import SinkOptions
from gateway.exporter.sinks.registry import readable
from gateway.settings.problems import Wrong
from gateway.settings.scalars import Id, Milliseconds, Section, Whole, field
from gateway.settings.sinks import SqliteSection
from gateway.settings.sinks_clickhouse import ClickHouseSection
from gateway.settings.sinks_http import HttpSection
from gateway.settings.sinks_kafka import KafkaSection
from gateway.settings.sinks_nats import NatsSection
from gateway.settings.sinks_parquet import ParquetSection
from gateway.settings.sinks_postgres import PostgresSection
from gateway.settings.sinks_stripe import StripeSection

EMBEDDED: Final = "events"
"""The name of the store that is there without being configured."""


class SinkSection(Section):
    """One sink: exactly one of its kinds, with that kind's settings."""

    sqlite: SqliteSection | None = field(
        "A database file on this machine.", {"path": "events.db"}, None
    )
    parquet: ParquetSection | None = field(
        "Parquet files.", {"url": "file:///srv/creditgate/usage"}, None
    )
    http: HttpSection | None = field(
        "A billing system or webhook.", {"url": "https://billing.example.com/usage"}, None
    )
    stripe: StripeSection | None = field(
        "Meter events.", {"key": "${STRIPE_KEY}", "meters": {"input": "llm_input_tokens"}}, None
    )
    postgres: PostgresSection | None = field(
        "A Postgres database.", {"url": "postgresql://gate@db.internal/creditgate"}, None
    )
    clickhouse: ClickHouseSection | None = field(
        "A ClickHouse database.", {"url": "http://clickhouse:8123"}, None
    )
    kafka: KafkaSection | None = field(
        "A Kafka topic.", {"servers": ["kafka-1.internal:9092"], "topic": "creditgate.events"}, None
    )
    nats: NatsSection | None = field(
        "A NATS JetStream stream.", {"servers": ["nats://nats-1.internal:4222"]}, None
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "SinkSection":
        if len(self.kinds()) != 1:
            known = ", ".join(type(self).model_fields)
            raise Wrong("a sink has exactly one kind", f"Name one of: {known}.")
        return self

    def kinds(self) -> list[str]:
        """The kinds that are written."""
        return [name for name in type(self).model_fields if getattr(self, name) is not None]

    def compiled(self, data_dir: Path) -> SinkOptions:
        """Convert to the exporter's form. data_dir: what relative paths start from"""
        (kind,) = self.kinds()
        options: SinkOptions = getattr(self, kind).compiled(data_dir)
        return options


class ExportSection(Section):
    """Where usage events go. The required store decides what may be trimmed from the ledger's outbox:
    while it is away, events wait there. Every other sink follows at its own pace and never holds up
    traffic."""

    required: Id = field(
        "The sink that is the required store: `sqlite`, `postgres` or `clickhouse`. Without one, events"
        " go to `events.db` in `data_dir`.",
        "warehouse",
        EMBEDDED,
    )
    sinks: Mapping[Id, SinkSection] = field(
        "Sinks by name.", {"warehouse": {"sqlite": {"path": "warehouse.db"}}}, factory=dict
    )
    batch_events: Annotated[int, Whole(1, 10_000)] = field(
        "Maximum number of events per batch.", 4096, 4096
    )
    interval_ms: Milliseconds = field("Longest wait before a smaller batch is delivered.", 50, 50)
    max_backlog_events: Annotated[int, Whole(1000, 1_000_000_000)] = field(
        "Undelivered events in one shard above which requests are refused (503), so that no event"
        " is ever dropped. About 250 bytes of the ledger's memory each.",
        1_000_000,
        1_000_000,
    )

    metrics_top: Annotated[int, Whole(0, 500)] = field(
        "How many customers, and how many models, metrics name: those with the highest charges of the last"
        " hour. All others are one, `(other)`.",
        20,
        20,
    )

    @model_validator(mode="after")
    def _readable_store(self) -> "ExportSection":
        if self.required not in self.sinks:
            if self.required == EMBEDDED:
                return self
            known = ", ".join(self.sinks) or "none"
            raise Wrong(
                f"there is no sink {self.required!r}",
                f"Sinks that are configured: {known}.",
                at="required",
            )
        if not readable(self.sinks[self.required].compiled(Path())):
            raise Wrong(
                f"{self.required!r} cannot be read back, so it cannot be the required store",
                "Name a sink that is sqlite, postgres or clickhouse, or none for `events.db`.",
                at="required",
            )
        return self

    def required_store(self, data_dir: Path) -> SinkOptions:
        """The required store's options."""
        if self.required in self.sinks:
            return self.sinks[self.required].compiled(data_dir)
        return SqliteSection().compiled(data_dir)

    def optional_sinks(self, data_dir: Path) -> dict[str, SinkOptions]:
        """The other sinks' options, by name."""
        return {
            name: section.compiled(data_dir)
            for name, section in self.sinks.items()
            if name != self.required
        }
