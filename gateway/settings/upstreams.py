"""Section of one upstream: a provider or an inference server."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal
from urllib.parse import urlencode

from pydantic import AfterValidator, model_validator

from gateway.dialects.passing import BETA_FIELDS
from gateway.flow.header_names import may_forward, may_return
from gateway.http.breaker import DEFAULT_STATUSES, BreakerLimits
from gateway.settings.client_tls import check_pair
from gateway.settings.metering import QueryName
from gateway.settings.problems import Wrong
from gateway.settings.scalars import (
    BaseUrl,
    HeaderName,
    InputFile,
    Milliseconds,
    Secret,
    Section,
    Share,
    Switch,
    Text,
    Whole,
    field,
)

MAYBE_PROCESSED: Final = frozenset({408, 409, 500, 502, 504, 524})
"""Statuses that can follow when a request was processed."""


def _failover_status(status: int) -> int:
    if status in MAYBE_PROCESSED:
        raise Wrong(
            f"{status} does not say that the request was not processed",
            "Remove it: a request that may have been processed is never sent again.",
        )
    return status


MaxOutputField = Literal["max_tokens", "max_completion_tokens"]
FailoverStatus = Annotated[int, Whole(400, 599), AfterValidator(_failover_status)]
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
    """What the gate sends to the upstream instead of the caller's key."""

    header: HeaderName = field("Header that carries it.", "authorization", "authorization")
    value: Secret = field("Complete value of the header.", "Bearer ${OPENAI_API_KEY}")


class TimeoutsSection(Section):
    """A deadline for each phase of a request to the upstream."""

    connect_ms: Milliseconds = field("To open the connection, TLS included.", 5000, 5000)
    head_ms: Milliseconds = field(
        "From the request's last byte to the response's headers.", 600_000, 600_000
    )
    between_bytes_ms: Milliseconds = field("The longest pause within a response.", 120_000, 120_000)
    total_ms: Milliseconds = field("The entire request.", 3_600_000, 3_600_000)


class TlsSection(Section):
    """TLS of an https upstream."""

    verify: Switch = field("Check the certificate and its name.", True, True)
    ca_file: InputFile | None = field(
        "Certificates to trust instead of the system's, PEM.", "tls/ca.pem", None
    )
    client_cert: InputFile | None = field("Client certificate, PEM.", "tls/gate.pem", None)
    client_key: InputFile | None = field(
        "Private key of the client certificate, PEM.", "tls/gate.key", None
    )
    server_name: Text | None = field(
        "Server name to request and verify, if it differs from the URL's host.",
        "api.internal",
        None,
    )

    @model_validator(mode="after")
    def _pair(self) -> "TlsSection":
        check_pair(self.client_cert, self.client_key)
        return self


class BreakerSection(Section):
    """The circuit breaker of an upstream. While it is open, requests go to the model's other
    upstreams, or are refused with 503 before anything is reserved. Each worker counts for itself."""

    enabled: Switch = field("Keep requests from the upstream while it fails.", False, True)
    consecutive_failures: Annotated[int, Whole(1, 10_000)] = field(
        "Failures in a row that open it.", 5, 5
    )
    failure_ratio: Share = field("Share of failures within `window_ms` that opens it.", 0.5, 0.5)
    window_requests: Annotated[int, Whole(1, 1_000_000)] = field(
        "Minimum requests within `window_ms` for `failure_ratio` to apply.", 20, 20
    )
    window_ms: Milliseconds = field(
        "Length of the window, which starts with a failure.", 10_000, 10_000
    )
    open_ms: Milliseconds = field(
        "How long it stays open. Then one request is let through: its success closes it, its failure"
        " opens it again.",
        10_000,
        10_000,
    )
    failure_statuses: tuple[Annotated[int, Whole(500, 599)], ...] = field(
        "Response statuses that count as failures, in addition to connections that cannot be opened,"
        " break or time out.",
        [502, 503, 504],
        tuple(sorted(DEFAULT_STATUSES)),
    )
    rest_max_ms: Annotated[int, Whole(0, 86_400_000)] = field(
        "A 429 with `Retry-After` moves requests to the model's other upstreams, for that time and at"
        " most this; 0 turns it off. It never opens the breaker.",
        60_000,
        60_000,
    )

    def limits(self) -> BreakerLimits:
        """The breaker's limits."""
        return BreakerLimits(
            enabled=self.enabled,
            consecutive_most=self.consecutive_failures,
            failure_ratio=self.failure_ratio,
            requests_least=self.window_requests,
            window_s=self.window_ms / 1000,
            open_s=self.open_ms / 1000,
            failure_statuses=frozenset(self.failure_statuses),
            rest_most_s=self.rest_max_ms / 1000,
        )


class UpstreamSection(Section):
    """One upstream. A request's path is appended to `base_url`; redirects are not followed."""

    base_url: BaseUrl = field(
        "Scheme, host and port. A path here is prepended to the request's path. If it ends in a "
        "version, as SDKs write it (`/v1`), it replaces the version at the start of the request's"
        " path.",
        "https://api.openai.com/v1",
    )
    credential: CredentialSection | None = field(
        "The gate's credential at the upstream; without it none is sent.",
        {"header": "authorization", "value": "Bearer ${OPENAI_API_KEY}"},
        None,
    )
    headers: Mapping[HeaderName, Text] = field(
        "Headers to add to each request.", {"openai-organization": "org-1"}, factory=dict
    )
    query: Mapping[QueryName, Text] = field(
        "Query parameters to add to each request, such as Azure's `api-version`. They replace the"
        " caller's parameters of the same name.",
        {"api-version": "2025-04-01-preview"},
        factory=dict,
    )
    forward_headers: tuple[HeaderName, ...] = field(
        "Request headers to forward in addition to those of the dialect. Many headers select a "
        "price, a region or a model at the provider: list only those that are priced or harmless.",
        ["x-session-id"],
        (),
    )
    return_headers: tuple[HeaderName, ...] = field(
        "Response headers to pass in addition to those that describe the response.",
        ["x-model-version"],
        (),
    )
    allowed_betas: tuple[Text, ...] = field(
        "Names that callers may send in `anthropic-beta` or `openai-beta`, in addition to those "
        "that change no price. Others are removed from the header.",
        ["context-1m-2025-08-07"],
        (),
    )
    timeouts: TimeoutsSection = field("Deadlines.", {"connect_ms": 5000}, factory=TimeoutsSection)
    tls: TlsSection = field("TLS.", {"ca_file": "tls/ca.pem"}, factory=TlsSection)
    breaker: BreakerSection = field(
        "Circuit breaker.", {"consecutive_failures": 5}, factory=BreakerSection
    )
    failover_statuses: tuple[FailoverStatus, ...] = field(
        "Response statuses by which this upstream says that it has not processed a request. Such a"
        " request goes to the model's next upstream. List only what you are sure of: a request that"
        " was processed after all is billed twice by your providers.",
        [429, 503],
        (),
    )
    max_connections: Annotated[int, Whole(1, 100_000)] = field(
        "Connections per worker; further requests wait for up to `connect_ms`. One customer uses at "
        "most four fifths of them, and less while others wait.",
        1024,
        1024,
    )
    pool: PoolKind = field(
        "Who shares connections: all customers (`shared`), or only requests of the same customer "
        "(`per_customer`), for an upstream that is not trusted to frame its responses correctly.",
        "per_customer",
        "shared",
    )
    inject_usage: Switch = field(
        "Request usage of streams (`stream_options.include_usage`). Turn it off for an upstream "
        "that rejects the field.",
        True,
        True,
    )
    continuous_usage_stats: Switch = field(
        "The upstream is vLLM and reports usage in every chunk on request.", True, False
    )

    max_output_field: MaxOutputField = field(
        "Field in which the gate writes the output maximum of chat completions "
        "(`policy.default_max_output_tokens`). OpenAI's reasoning models accept only "
        "`max_completion_tokens`.",
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
                    "Remove it; set a fixed value under `headers`.",
                    at="forward_headers",
                )
        for name in self.return_headers:
            if not may_return(name):
                raise Wrong(
                    f"the header {name!r} never passes from an upstream to a caller",
                    "Remove it.",
                    at="return_headers",
                )
        return self

    @model_validator(mode="after")
    def _own_headers(self) -> "UpstreamSection":
        taken = set(self.headers)
        if clash := taken & HOP_BY_HOP:
            raise Wrong(
                f"the header {min(clash)!r} is set by the gate itself",
                "Remove it.",
                at="headers",
            )
        if self.credential and self.credential.header in taken:
            raise Wrong(
                f"the header {self.credential.header!r} is already used by the credential",
                "Remove one of them.",
                at="headers",
            )
        for name, text in self.headers.items():
            if not text.isprintable():
                raise Wrong(f"the header {name!r} has control characters in it", at="headers")
        return self
