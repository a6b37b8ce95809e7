"""Section of a NATS JetStream sink."""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr, model_validator

from gateway.exporter.sinks.options import NatsOptions
from gateway.settings.client_tls import ClientTlsSection
from gateway.settings.problems import Wrong
from gateway.settings.scalars import Milliseconds, Secret, Section, Switch, Text, Whole, field

_STREAM = re.compile(r"[^\s.*>/\\]{1,255}")
_TOKEN = re.compile(r"[^\s*>{}]+|\{(kind|customer_id)\}")


def _server(text: str) -> str:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise Wrong(f"{text!r} is not a URL: {error}") from error
    if url.username is not None or url.password is not None:
        raise Wrong("has a user or password in the URL", "Put them under `username`, `password`.")
    if url.scheme not in ("nats", "tls") or not url.hostname or port == 0:
        raise Wrong(f"{text!r} is not a nats or tls URL", "Write such as nats://nats-1:4222.")
    return text


def _stream(text: str) -> str:
    if not _STREAM.fullmatch(text):
        raise Wrong(
            f"{text!r} is not a stream's name", "Leave out spaces and . * > / \\ (at most 255)."
        )
    return text


def _subject(text: str) -> str:
    if not all(_TOKEN.fullmatch(token) for token in text.split(".")):
        raise Wrong(
            f"{text!r} is not a subject",
            "Write tokens separated by dots; {kind} and {customer_id} are complete tokens.",
        )
    return text


class NatsSection(Section):
    """A stream of NATS JetStream: one message per event, kept once. Needs the extra `nats`."""

    servers: tuple[Annotated[Text, AfterValidator(_server)], ...] = field(
        "URLs of servers of one cluster.", ["nats://nats-1.internal:4222"]
    )
    stream: Annotated[Text, AfterValidator(_stream)] = field("Stream.", "creditgate", "creditgate")
    subject: Annotated[Text, AfterValidator(_subject)] = field(
        "Subject of an event's message. {kind} is the event's kind, {customer_id} its customer.",
        "creditgate.events.{kind}.{customer_id}",
        "creditgate.events.{kind}",
    )
    create_stream: Switch = field(
        "Create the stream if it does not exist, with one replica and no limits.", True, False
    )
    max_replay_age_ms: Annotated[int, Whole(1000, 100 * 86_400_000)] = field(
        "Events older than this become dead letters. At least one minute below the stream's duplicate"
        " window.",
        3_600_000,
        3_600_000,
    )
    max_pending: Annotated[int, Whole(1, 10_000)] = field(
        "Messages that may wait for their acknowledgement.", 4096, 4096
    )
    timeout_ms: Milliseconds = field(
        "Time without any acknowledgement after which a batch is written again.", 15_000, 15_000
    )
    username: Text | None = field("User.", "creditgate", None)
    password: Secret | None = field("Password.", "${NATS_PASSWORD}", None)
    token: Secret | None = field("Token, instead of a user.", "${NATS_TOKEN}", None)
    tls: ClientTlsSection | None = field("TLS; without it only `tls://` URLs use it.", {}, None)

    @model_validator(mode="after")
    def _sound(self) -> "NatsSection":
        if not self.servers:
            raise Wrong("is empty", "Write such as [nats://nats-1:4222].", at="servers")
        if (self.username is None) != (self.password is None):
            raise Wrong("`username` and `password` must be set together", "Set both or neither.")
        if self.token is not None and self.username is not None:
            raise Wrong("`token` and `username` exclude each other", "Remove one of them.")
        return self

    def compiled(self, data_dir: Path) -> NatsOptions:  # noqa: ARG002 - as every kind of sink
        """Convert to the exporter's form."""
        return NatsOptions(
            self.servers,
            self.stream,
            self.subject,
            self.username,
            _revealed(self.password),
            _revealed(self.token),
            self.tls.for_sink() if self.tls else None,
            self.create_stream,
            self.max_replay_age_ms,
            self.max_pending,
            self.timeout_ms / 1000,
        )


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None
