"""Section of a Kafka sink."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, SecretStr, model_validator

from gateway.exporter.sinks.options import KafkaOptions
from gateway.settings.client_tls import ClientTlsSection
from gateway.settings.problems import Wrong
from gateway.settings.scalars import Milliseconds, Secret, Section, Text, field

_BROKER = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")

_FIXED: Final = {
    "bootstrap.servers": "servers",
    "metadata.broker.list": "servers",
    "security.protocol": "tls",
    "sasl.mechanism": "sasl_mechanism",
    "sasl.mechanisms": "sasl_mechanism",
    "sasl.username": "username",
    "sasl.password": "password",
    "compression.type": "compression",
    "compression.codec": "compression",
    "message.timeout.ms": "timeout_ms",
    "delivery.timeout.ms": "timeout_ms",
}
"""Settings of librdkafka that have a field."""
_PROMISED: Final = frozenset(
    {
        "acks",
        "delivery.report.only.error",
        "enable.idempotence",
        "request.required.acks",
        "transactional.id",
    }
)
"""Settings that the promise of at least once rests on."""


def _broker(text: str) -> str:
    if not _BROKER.fullmatch(text):
        raise Wrong(f"{text!r} is not host:port", "Write such as kafka-1.internal:9092.")
    return text


def _topic(text: str) -> str:
    if not _TOPIC.fullmatch(text) or text in (".", ".."):
        raise Wrong(
            f"{text!r} is not a topic's name", "Use letters, digits and . _ - (at most 249)."
        )
    return text


class KafkaSection(Section):
    """A topic of Kafka, or of a server that speaks its protocol: one message per event, delivered at least
    once. Needs the extra `kafka`."""

    servers: tuple[Annotated[Text, AfterValidator(_broker)], ...] = field(
        "Some of the brokers; the others are found through them.", ["kafka-1.internal:9092"]
    )
    topic: Annotated[Text, AfterValidator(_topic)] = field(
        "Topic. It must exist, unless `settings` allows to create it.", "creditgate.events"
    )
    username: Text | None = field("SASL user.", "creditgate", None)
    password: Secret | None = field("SASL password.", "${KAFKA_PASSWORD}", None)
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = field(
        "How the password is proved.", "SCRAM-SHA-512", "SCRAM-SHA-512"
    )
    tls: ClientTlsSection | None = field("TLS; without it connections are plain.", {}, None)
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = field(
        "Compression of batches.", "lz4", "lz4"
    )
    timeout_ms: Milliseconds = field(
        "Time without an acknowledgement after which a batch is written again.", 15_000, 15_000
    )
    settings: Mapping[str, Secret] = field(
        "Further settings of librdkafka, by its names. None of them is shown in messages.",
        {"linger.ms": "20", "socket.keepalive.enable": "true"},
        factory=dict,
    )

    @model_validator(mode="after")
    def _sound(self) -> "KafkaSection":
        if not self.servers:
            raise Wrong("is empty", "Write such as [kafka-1.internal:9092].", at="servers")
        if (self.username is None) != (self.password is None):
            raise Wrong("`username` and `password` must be set together", "Set both or neither.")
        for name in self.settings:
            if name in _FIXED:
                raise Wrong(f"{name!r} has its own field", f"Set `{_FIXED[name]}`.", at="settings")
            if name in _PROMISED:
                raise Wrong(f"{name!r} cannot be changed: no event may get lost", at="settings")
        return self

    def compiled(self, data_dir: Path) -> KafkaOptions:  # noqa: ARG002 - as every kind of sink
        """Convert to the exporter's form."""
        return KafkaOptions(
            self.servers,
            self.topic,
            self.username,
            _revealed(self.password),
            self.sasl_mechanism,
            self.tls.for_sink() if self.tls else None,
            self.compression,
            self.timeout_ms / 1000,
            {name: value.get_secret_value() for name, value in self.settings.items()},
        )


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None
