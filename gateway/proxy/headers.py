"""Which header fields pass the gate, in which direction.

RFC 9110, 7.6.1: fields that `Connection` names and the hop-by-hop ones end here. Credentials
end here too, and what only the operator may say (forwarding, provider's organisation).
"""

from collections.abc import Iterable, Sequence
from typing import Final

from gateway.proxy.http import Headers

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

_NOT_FORWARDED: Final = HOP_BY_HOP | {
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
    "openai-organization",
    "openai-project",
}

_NOT_FORWARDED_PREFIXES: Final = ("x-forwarded-", "x-credits-", "x-creditgate-", "x-original-")

_NOT_RETURNED: Final = frozenset(name.encode() for name in HOP_BY_HOP) | {
    b"content-length",
    b"set-cookie",
    b"x-request-id",
    b"request-id",
    b"alt-svc",
    b"strict-transport-security",
}

UPSTREAM_REQUEST_ID: Final = (b"x-request-id", b"request-id")


def forwarded(
    fields: Iterable[tuple[str, str]], extra: Sequence[tuple[bytes, bytes]], connection: str | None
) -> Headers:
    """The client's fields that the upstream sees, then `extra` (content type, credential, ids)."""
    named = frozenset(connection.lower().replace(" ", "").split(",")) if connection else ()
    passed = []
    replaced = {name for name, _ in extra}
    for name, value in fields:
        low = name.lower()
        if (
            low in _NOT_FORWARDED
            or low in named
            or low.startswith(_NOT_FORWARDED_PREFIXES)
            or low.encode() in replaced
        ):
            continue
        passed.append((name.encode("ascii"), value.encode("utf-8", "surrogateescape")))
    passed.extend(extra)
    return passed


def returned(fields: Headers) -> list[tuple[str, str]]:
    """The upstream's fields that the client sees; its request id under a name of its own."""
    passed = []
    for name, value in fields:
        low = name.lower()
        if low in UPSTREAM_REQUEST_ID:
            passed.append(("x-upstream-request-id", value.decode("latin-1")))
        elif low not in _NOT_RETURNED:
            passed.append((name.decode("ascii"), value.decode("latin-1")))
    return passed


def find(fields: Headers, name: bytes) -> bytes | None:
    """The first value of a field; name in lower case."""
    for field, value in fields:
        if field.lower() == name:
            return value
    return None
