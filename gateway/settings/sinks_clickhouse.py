"""Section of the ClickHouse sink."""

import re
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import BeforeValidator

from gateway.exporter.sinks.options import ClickHouseOptions
from gateway.settings.problems import Wrong
from gateway.settings.scalars import BaseUrl, Milliseconds, Secret, Section, Text, field

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def _without_credentials(value: Any) -> Any:
    try:
        url = urlsplit(str(value))
    except ValueError:
        return value  # BaseUrl says what is wrong
    if url.username is not None or url.password is not None:
        raise Wrong("has a user or password in the URL", "Write them as `user` and `password`.")
    return value


def _database(value: Any) -> str:
    if not _NAME.fullmatch(str(value)):
        raise Wrong(
            f"{str(value)!r} is not a database's name here",
            "Use letters, digits and _ (at most 64, no digit first).",
        )
    return str(value)


class ClickHouseSection(Section):
    """A ClickHouse database, written and read over its HTTP interface."""

    url: Annotated[BaseUrl, BeforeValidator(_without_credentials)] = field(
        "The HTTP interface, `https` for TLS. Certificates are checked against the system's"
        " authorities, or those in the file that SSL_CERT_FILE names.",
        "http://clickhouse:8123",
    )
    database: Annotated[str, BeforeValidator(_database)] = field(
        "Database of the tables. It is created if the user may do so.", "creditgate", "creditgate"
    )
    user: Text = field("User.", "creditgate", "default")
    password: Secret | None = field("The user's password.", "${CLICKHOUSE_PASSWORD}", None)
    timeout_ms: Milliseconds = field("For one statement.", 30_000, 30_000)

    def compiled(self, data_dir: Path) -> ClickHouseOptions:  # noqa: ARG002 - as every sink's
        """Convert to the exporter's form."""
        return ClickHouseOptions(
            self.url,
            self.database,
            self.user,
            self.password.get_secret_value() if self.password else "",
            self.timeout_ms,
        )
