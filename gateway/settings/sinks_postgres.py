"""Section of a Postgres sink."""

import re
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl, urlsplit

from pydantic import BeforeValidator, SecretStr, WithJsonSchema, field_validator

from gateway.exporter.sinks.options import PostgresOptions
from gateway.settings.problems import Wrong
from gateway.settings.scalars import Milliseconds, Secret, Section, field

_SCHEMA: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]*)(:[0-9]{1,5})?")
_STRAY_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HINT: Final = (
    "Write such as postgresql://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full, and %23 %25 %2F %3F %40"
    " for # % / ? @ in the password."
)


def _postgres_url(secret: SecretStr) -> SecretStr:
    """Check the URL without ever showing it: it has a password in it. Raises Wrong."""
    text = secret.get_secret_value()
    try:
        url = urlsplit(text)
    except ValueError:
        raise Wrong("is not a Postgres URL", _HINT) from None
    if url.scheme not in ("postgresql", "postgres"):
        raise Wrong("is not a Postgres URL: it begins with postgresql://", _HINT)
    try:
        query = dict(parse_qsl(url.query, strict_parsing=bool(url.query)))
    except ValueError:
        raise Wrong("has a query that cannot be read", _HINT) from None
    hosts = url.netloc.rpartition("@")[2].split(",")
    # A password that is not escaped ends up in another part, where it would be shown.
    if (
        url.fragment
        or url.netloc.count("@") > 1
        or "@" in url.path + url.query
        or _STRAY_PERCENT.search(text)
        or not all(_HOST.fullmatch(host) for host in hosts)
    ):
        raise Wrong("is not a Postgres URL", _HINT)
    if not (url.path.strip("/") or "dbname" in query or "service" in query):
        raise Wrong("names no database", _HINT)
    return secret


def _schema(value: Any) -> str:
    text = str(value)
    if not _SCHEMA.fullmatch(text) or text.lower().startswith("pg_"):
        raise Wrong(
            f"{text!r} cannot be used as a schema",
            "Use letters, digits and _ (at most 63, no digit first, not pg_…).",
        )
    return text


class PostgresSection(Section):
    """A Postgres database, version 13 or newer: a required store that several gates may share."""

    url: Secret = field(
        "`postgresql://` URL as libpq reads it, unix sockets (`?host=/run/postgresql`) and TLS (`?sslmode=`)"
        " included.",
        "postgresql://gate:PASSWORD@db.internal/creditgate?sslmode=verify-full",
    )
    schema_name: Annotated[
        str,
        BeforeValidator(_schema),
        WithJsonSchema({"type": "string", "pattern": _SCHEMA.pattern}),
    ] = field(
        "Schema of the tables; it is created if it does not exist.",
        "creditgate",
        "creditgate",
        alias="schema",
    )
    connect_timeout_ms: Milliseconds = field("For opening a connection.", 10_000, 10_000)
    timeout_ms: Milliseconds = field("For one statement.", 30_000, 30_000)

    @field_validator("url")
    @classmethod
    def _is_a_postgres_url(cls, url: SecretStr) -> SecretStr:
        return _postgres_url(url)

    def compiled(self, _data_dir: Path) -> PostgresOptions:
        """Convert to the exporter's form."""
        return PostgresOptions(
            self.url.get_secret_value(), self.schema_name, self.connect_timeout_ms, self.timeout_ms
        )
