"""Names of header fields that may pass the gate, and of those that never do, in lower case.

RFC 9110, 7.6.1: hop-by-hop fields end here. Credentials, framing and what imitates the gate never pass.
"""

import re
from typing import Final

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

NEVER_FORWARDED: Final = HOP_BY_HOP | {
    "host",
    "content-length",
    "content-encoding",
    "content-type",
    "accept-encoding",
    "expect",
    "authorization",
    "x-api-key",
    "x-goog-api-key",
    "api-key",
    "cookie",
    "forwarded",
    "via",
    "x-real-ip",
    "x-request-id",
    "idempotency-key",  # two customers may use the same one, and the provider sees one account
    "openai-organization",
    "openai-project",
}

_NEVER_FORWARDED_PREFIXES: Final = ("x-forwarded-", "x-credits-", "x-creditgate-", "x-original-")

_PLAIN_NAME: Final = re.compile(r"[a-z0-9-]+", re.ASCII)


def may_forward(name: str) -> bool:
    """Whether a configuration can have a header field of callers reach an upstream; name in lower
    case. Servers that read fields as variables take `x_team` for `x-team`, so only one of them may."""
    plain = _PLAIN_NAME.fullmatch(name) is not None
    return plain and name not in NEVER_FORWARDED and not name.startswith(_NEVER_FORWARDED_PREFIXES)


RETURNED: Final = frozenset(
    {
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-type",
        "etag",
        "expires",
        "last-modified",
        "openai-model",
        "openai-processing-ms",
        "openai-version",
        "retry-after",
        "retry-after-ms",
        "vary",
    }
)
"""Fields of an answer that the client sees, in lower case."""

_NEVER_RETURNED: Final = HOP_BY_HOP | {
    "alt-svc",
    "anthropic-organization-id",
    "clear-site-data",
    "content-length",
    "date",
    "idempotent-replayed",
    "openai-organization",
    "openai-project",
    "request-id",
    "set-cookie",
    "strict-transport-security",
    "www-authenticate",
    "x-accel-redirect",
    "x-error-source",
    "x-request-id",
    "x-should-retry",
    "x-upstream-request-id",
}
_NEVER_RETURNED_PREFIXES: Final = (
    "access-control-",
    "anthropic-ratelimit-",
    "x-accel-",
    "x-credits-",
    "x-creditgate-",
    "x-ratelimit-",
)


def may_return(name: str) -> bool:
    """Whether a configuration can have a header field of an upstream reach clients; name in lower
    case."""
    return name not in _NEVER_RETURNED and not name.startswith(_NEVER_RETURNED_PREFIXES)
