"""What may pass of a request's head: header fields, beta names and query parameters, by API.

These are allow-lists, because a provider reads more than its API reference says: header fields choose
priority, a region, a larger context window, another method. Listed here is what official SDKs send
and what changes neither the price nor who serves the request. The operator adds names for an
upstream by `forward_headers` and `allowed_betas`.
"""

from collections.abc import Mapping
from typing import Final

_COMMON: Final = frozenset(
    {
        *("accept", "accept-language", "user-agent", "x-client-request-id"),
        *("traceparent", "tracestate"),  # W3C Trace Context
    }
)
_STAINLESS: Final = frozenset(
    f"x-stainless-{name}"
    for name in (
        *("arch", "async", "custom-poll-interval", "helper", "helper-method", "lang", "os"),
        *("package-version", "poll-helper", "raw-response", "read-timeout", "retry-count"),
        *("runtime", "runtime-version", "stream-helper", "timeout"),
    )
)
"""What the official SDKs of OpenAI and Anthropic say of themselves."""

REQUEST_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "openai": _COMMON | _STAINLESS | {"openai-beta"},
    "anthropic": _COMMON | _STAINLESS | {"anthropic-beta", "anthropic-version"},
    "gemini": _COMMON | {"x-goog-api-client"},
    "generic": _COMMON,
}
"""API → header fields that pass, in lower case."""

BETA_FIELDS: Final = frozenset({"anthropic-beta", "openai-beta"})
"""Fields that list beta features by name; each name passes or is dropped by itself."""

HARMLESS_BETAS: Final = frozenset(
    {
        "assistants=v2",
        "responses=experimental",
        "claude-code-20250219",
        "context-management-2025-06-27",
        "effort-2025-11-24",
        "extended-cache-ttl-2025-04-11",  # such writes are a token class of their own
        "fine-grained-tool-streaming-2025-05-14",
        "interleaved-thinking-2025-05-14",
        "messages-2023-12-15",
        "model-context-window-exceeded-2025-08-26",
        "output-128k-2025-02-19",
        "max-tokens-3-5-sonnet-2024-07-15",
        "pdfs-2024-09-25",
        "prompt-caching-2024-07-31",
        "search-results-2025-06-09",
        "structured-outputs-2025-11-13",
        "token-counting-2024-11-01",
        "token-efficient-tools-2025-02-19",
        "tools-2024-04-04",
        "tools-2024-05-16",
    }
)
"""Beta features that leave the price of a token and the place of its processing as they are. What
they do to the number of tokens, the bound covers. A larger context window, a fast mode, files, tools
that the provider runs and servers that it calls are not among them."""

QUERY: Final[Mapping[str, Mapping[str, str]]] = {"anthropic": {"beta": "true"}}
"""API → query parameters that pass, each with its one value."""


def api_of(dialect_name: str) -> str:
    """The API that a dialect belongs to: `anthropic` for `anthropic_messages`."""
    return dialect_name.partition("_")[0]


def passing_betas(value: str, allowed: frozenset[str]) -> str:
    """The beta names of a field's value that are allowed; empty when none is."""
    names = (name.strip() for name in value.split(","))
    return ",".join(name for name in names if name in allowed)


def passing_query(api: str, query: str) -> str:
    """The parameters of a query that pass; empty when none does."""
    known = QUERY.get(api)
    if not known or not query:
        return ""
    sent = query.split("&")
    return "&".join(each for name, value in known.items() if (each := f"{name}={value}") in sent)
