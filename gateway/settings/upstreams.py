"""The section of one upstream: a provider or an inference server that requests are sent to."""

from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlencode

from pydantic import model_validator

from gateway.dialects.passing import BETA_FIELDS
from gateway.flow.headers import may_forward, may_return
from gateway.settings.metering import QueryName
from gateway.settings.problems import Wrong
from gateway.settings.scalars import (
    BaseUrl,
    HeaderName,
    InputFile,
    Milliseconds,
    Secret,
    Section,
    Switch,
    Text,
    Whole,
    field,
)
from gateway.settings.servers import check_pair

MaxOutputField = Literal["max_tokens", "max_completion_tokens"]
PoolKind = Literal["shared", "per_customer"]

HOP_BY_HOP = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "accept-encoding",
    }
)


class CredentialSection(Section):
    """What the gate shows the upstream in place of the caller's key."""

    header: HeaderName = field("Header that carries it.", "authorization", "authorization")
    value: Secret = field("The whole value of the header.", "Bearer ${OPENAI_API_KEY}")


class TimeoutsSection(Section):
    """A deadline for each phase of a request to the upstream."""

    connect_ms: Milliseconds = field("To open the connection, TLS included.", 5000, 5000)
    head_ms: Milliseconds = field(
        "From the request's last byte to the answer's headers.", 600_000, 600_000
    )
    between_bytes_ms: Milliseconds = field(
        "The longest silence inside an answer.", 120_000, 120_000
    )
    total_ms: Milliseconds = field("The whole request.", 3_600_000, 3_600_000)


class TlsSection(Section):
    """TLS of an https upstream."""

    verify: Switch = field("Check the certificate and its name.", True, True)
    ca_file: InputFile | None = field(
        "Certificates to trust instead of the system's, PEM.", "tls/ca.pem", None
    )
    client_cert: InputFile | None = field(
        "Certificate that the gate shows, PEM.", "tls/gate.pem", None
    )
    client_key: InputFile | None = field("Its private key, PEM.", "tls/gate.key", None)
    server_name: Text | None = field(
        "Name to ask for and to check, when it is not the URL's host.", "api.internal", None
    )

    @model_validator(mode="after")
    def _pair(self) -> "TlsSection":
        check_pair(self.client_cert, self.client_key)
        return self


class UpstreamSection(Section):
    """One upstream. A request's path is appended to `base_url`; redirects are not followed."""

    base_url: BaseUrl = field(
        "Scheme, host and port; a path here stands before the request's. Where it ends in a version, "
        "as SDKs write it (`/v1`), that version replaces the one that the request's path begins with.",
        "https://api.openai.com/v1",
    )
    credential: CredentialSection | None = field(
        "The gate's own credential; without it none is sent.",
        {"header": "authorization", "value": "Bearer ${OPENAI_API_KEY}"},
        None,
    )
    headers: Mapping[HeaderName, Text] = field(
        "Headers to add to each request.", {"openai-organization": "org-1"}, factory=dict
    )
    query: Mapping[QueryName, Text] = field(
        "Query parameters to add to each request, such as Azure's `api-version`. They replace the "
        "caller's of the same name.",
        {"api-version": "2025-04-01-preview"},
        factory=dict,
    )
    forward_headers: tuple[HeaderName, ...] = field(
        "Headers of callers to forward, beyond those that the dialect defines. Many headers choose "
        "a price, a region or a model at the provider: name only those that are priced or harmless.",
        ["x-session-id"],
        (),
    )
    return_headers: tuple[HeaderName, ...] = field(
        "Headers of responses to pass on, beyond those that describe the response itself.",
        ["x-model-version"],
        (),
    )
    allowed_betas: tuple[Text, ...] = field(
        "Names that callers may send in `anthropic-beta` or `openai-beta`, beyond those that change "
        "no price. Others are dropped from the header.",
        ["context-1m-2025-08-07"],
        (),
    )
    timeouts: TimeoutsSection = field("Deadlines.", {"connect_ms": 5000}, factory=TimeoutsSection)
    tls: TlsSection = field("TLS.", {"ca_file": "tls/ca.pem"}, factory=TlsSection)
    max_connections: Annotated[int, Whole(1, 100_000)] = field(
        "Connections of one worker; further requests wait, within `connect_ms`. One customer uses at "
        "most four fifths of them, and less while others wait.",
        1024,
        1024,
    )
    pool: PoolKind = field(
        "Who shares connections: `shared`, all customers; `per_customer`, only requests of the same "
        "customer, for an upstream that is not trusted to end each response where it says.",
        "per_customer",
        "shared",
    )
    inject_usage: Switch = field(
        "Ask for the usage of streams (`stream_options.include_usage`); off for an upstream that "
        "rejects the field.",
        True,
        True,
    )
    continuous_usage_stats: Switch = field(
        "The upstream is a vLLM that reports usage in every chunk when asked.", True, False
    )

    max_output_field: MaxOutputField = field(
        "How chat completions name the output maximum there, where the gate sets it "
        "(`policy.default_max_output_tokens`): OpenAI's reasoning models take "
        "`max_completion_tokens` alone.",
        "max_completion_tokens",
        "max_tokens",
    )

    @property
    def query_text(self) -> str:
        """The added query parameters, encoded."""
        return urlencode(dict(self.query))

    @model_validator(mode="after")
    def _passing(self) -> "UpstreamSection":
        for name in self.forward_headers:
            if name in BETA_FIELDS:
                raise Wrong(
                    f"{name!r} passes by the names of its betas",
                    "List them under `allowed_betas`.",
                    at="forward_headers",
                )
            if not may_forward(name):
                raise Wrong(
                    f"the header {name!r} never passes from a caller to an upstream",
                    "Leave it out; a fixed value can be set under `headers`.",
                    at="forward_headers",
                )
        for name in self.return_headers:
            if not may_return(name):
                raise Wrong(
                    f"the header {name!r} never passes from an upstream to a caller",
                    "Leave it out.",
                    at="return_headers",
                )
        return self

    @model_validator(mode="after")
    def _own_headers(self) -> "UpstreamSection":
        taken = set(self.headers)
        if clash := taken & HOP_BY_HOP:
            raise Wrong(
                f"the header {min(clash)!r} is the gate's own to send",
                "Leave it out.",
                at="headers",
            )
        if self.credential and self.credential.header in taken:
            raise Wrong(
                f"the header {self.credential.header!r} is the credential's",
                "Keep one.",
                at="headers",
            )
        for name, text in self.headers.items():
            if not text.isprintable():
                raise Wrong(f"the header {name!r} has control characters in it", at="headers")
        return self
