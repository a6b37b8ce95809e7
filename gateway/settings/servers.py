"""Sections for listeners, prices and authentication."""

import ipaddress
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from gateway.dialects.reading.value_count import MAX_JSON_VALUES
from gateway.flow.credentials import KEY_FIELDS
from gateway.http.cors import ANY as ANY_ORIGIN
from gateway.settings.problems import Wrong
from gateway.settings.scalars import (
    HeaderName,
    Milliseconds,
    Port,
    Secret,
    Section,
    Switch,
    Text,
    Whole,
    field,
)
from gateway.settings.server_tls import ServerTlsSection


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach a listener on the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class ListenSection(Section):
    """The address that callers reach, the worker processes, and a deadline for each phase of a
    request."""

    host: Text = field("Address to listen on; 0.0.0.0 or :: for all.", "0.0.0.0", "127.0.0.1")  # noqa: S104
    port: Port = field("Port; 0 takes a free one.", 8080, 8080)
    tls: ServerTlsSection | None = field(
        "Serve HTTPS instead of HTTP.",
        {"cert_file": "tls/gate.pem", "key_file": "tls/gate.key"},
        None,
    )
    workers: Annotated[int, Whole(1, 256)] = field("Worker processes that share the port.", 4, 1)
    max_body_bytes: Annotated[int, Whole(1024, 268_435_456)] = field(
        "Largest request body; a larger one is refused with 413 before it is read.",
        4_194_304,
        4_194_304,
    )
    max_json_values: Annotated[int, Whole(1000, 10_000_000)] = field(
        "Most values (objects, lists and what is in them) of a JSON request body; a body with more is"
        " refused with 400 before it is parsed. Parsing 100,000 pauses a worker for 20 ms at most.",
        MAX_JSON_VALUES,
        MAX_JSON_VALUES,
    )
    header_timeout_ms: Milliseconds = field(
        "From the first byte of a request to the end of its headers.", 10_000, 10_000
    )
    body_timeout_ms: Milliseconds = field(
        "From the end of the headers to the end of the body; then 408.", 30_000, 30_000
    )
    keepalive_ms: Milliseconds = field(
        "How long a connection may be idle between requests.", 75_000, 75_000
    )
    write_timeout_ms: Milliseconds = field(
        "How long a caller may read nothing of a response before the gate considers it gone.",
        60_000,
        60_000,
    )
    max_connections_per_address: Annotated[int, Whole(1, 1_000_000)] = field(
        "Connections from one address per worker. Raise it behind a load balancer.",
        10_000,
        1024,
    )
    max_buffered_bytes: Annotated[int, Whole(1_048_576, 1 << 40)] = field(
        "Bytes that one worker buffers of unfinished request bodies and unread responses, at most "
        "half of it for one key. Beyond it bodies are refused with 503, and the clients that have "
        "left their responses unread for longest are cut. At least twice `max_body_bytes` is taken.",
        536_870_912,
        268_435_456,
    )
    drain_grace_ms: Milliseconds = field(
        "How long running responses may take to finish after SIGTERM; then they are cut and "
        "settled.",
        30_000,
        30_000,
    )


def _page_origin(value: Any) -> str:
    text = str(value)
    if text == ANY_ORIGIN:
        return text
    try:
        url = urlsplit(text)
        sound = bool(url.scheme and url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        sound = False
    if not sound or text != f"{url.scheme}://{url.netloc}" or "@" in url.netloc:
        raise Wrong(
            f"{text!r} is not the origin of a page",
            "Write it as browsers do, such as https://app.example.com, or `*` for every page.",
        )
    if text != text.lower() or not text.isascii():
        raise Wrong(f"{text!r} is not written as browsers send it", f"Write {text.lower()!r}.")
    return text


Origin = Annotated[str, BeforeValidator(_page_origin), WithJsonSchema({"type": "string"})]


class CorsSection(Section):
    """Requests from web pages (CORS); disabled unless origins are listed. Anyone who opens a page
    can read its key: create a separate key for it, with limits."""

    origins: tuple[Origin, ...] = field(
        "Origins that may call the gate; `*` for all.",
        ["https://app.example.com"],
        (),
    )


class AdminSection(Section):
    """The admin port: health, metrics, queries. It has a separate port and credential."""

    host: Text = field("Address to listen on.", "127.0.0.1", "127.0.0.1")
    port: Port = field("Port; 0 takes a free one.", 8081, 8081)
    token: Secret | None = field(
        "Credential of the operator, at least 16 characters. If absent, one is generated at the "
        "first start and kept in `data_dir`/admin.token.",
        "${file:admin.token}",
        None,
    )
    tls: ServerTlsSection | None = field(
        "Serve HTTPS instead of HTTP, probes and metrics too.",
        {"cert_file": "tls/gate.pem", "key_file": "tls/gate.key"},
        None,
    )

    @model_validator(mode="after")
    def _long_enough(self) -> "AdminSection":
        if self.token is not None and len(self.token.get_secret_value()) < 16:
            raise Wrong("is shorter than 16 characters", "Try `openssl rand -hex 32`.", at="token")
        return self


class PriceBookSection(Section):
    """How this configuration's prices take effect. The ledger keeps the price book that every
    gate charges by. A price that nobody pays yet (the first ones, a new model's, a new
    customer's) is added immediately; any other difference is pending until `creditgate prices
    apply`."""

    auto_apply: Switch = field(
        "Activate changed prices whenever the configuration is read: the newest file wins, "
        "reverts included. For development; in production a typo would charge customers.",
        True,
        False,
    )


class AnswersSection(Section):
    """Recorded responses for repeats, if a policy sets `keep_answers`; stored in `answers.db` in
    `data_dir`."""

    max_bytes: Annotated[int, Whole(1 << 20, 1 << 40)] = field(
        "Total size; the oldest are deleted first.", 268_435_456, 256 << 20
    )


def _network(value: Any) -> str:
    try:
        network = ipaddress.ip_network(str(value), strict=True)
    except ValueError as error:
        raise Wrong(f"{value!r} is not a network: {error}", "Write such as 10.0.0.0/8.") from error
    if network.prefixlen == 0:
        raise Wrong(
            f"{value!r} is every address: anyone could name a customer",
            ("List only your networks."),
        )
    return str(network)


Network = Annotated[
    str, BeforeValidator(_network), WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8"]})
]


class TrustedHeaderSection(Section):
    """For a gateway in front that has already authenticated the caller and names the customer."""

    customer: HeaderName = field("Header with the customer's id.", "x-customer-id")
    key: HeaderName | None = field("Header with the key's id, if any.", "x-key-id", None)
    project: HeaderName | None = field("Header with a project, if any.", "x-project", None)
    networks: tuple[Network, ...] = field(
        "Networks from which the header is accepted, by the address of the connection.",
        ["10.0.0.0/8"],
    )

    @model_validator(mode="after")
    def _sound(self) -> "TrustedHeaderSection":
        if not self.networks:
            raise Wrong(
                "is empty, so the header would never be accepted",
                "Write such as [10.0.0.0/8].",
                at="networks",
            )
        named = [name for name in (self.customer, self.key, self.project) if name]
        if len(set(named)) != len(named):
            raise Wrong("one header is used twice", "Use a different header for each.")
        clash = {"authorization", *KEY_FIELDS, "host", "cookie"} & set(named)
        if clash:
            raise Wrong(f"{min(clash)!r} has a fixed meaning", "Choose another header.")
        return self


class AuthSection(Section):
    """How a caller is identified as a customer."""

    keys: Switch = field("API keys in the provider's usual headers.", True, True)
    key_pepper: Secret | None = field(
        "If set, key hashes are HMAC-SHA-256 with this value as the key, instead of plain "
        "SHA-256. All hashes must have been created with it.",
        "${file:key.pepper}",
        None,
    )
    trusted_header: TrustedHeaderSection | None = field(
        "Accept a header from listed networks.",
        {"customer": "x-customer-id", "networks": ["10.0.0.0/8"]},
        None,
    )

    @model_validator(mode="after")
    def _some_way(self) -> "AuthSection":
        if not self.keys and self.trusted_header is None:
            raise Wrong(
                "no authentication method is enabled: `keys` is false and there is no "
                "`trusted_header`",
                "Set `keys: true`, or configure `trusted_header`.",
            )
        return self
