"""Which header fields pass the gate, in which direction.

RFC 9110, 7.6.1: fields that `Connection` names and the hop-by-hop ones end here. Credentials
end here too, and what only the operator may say (forwarding, provider's organisation).

What becomes of a name is decided once and remembered: a request only looks names up.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
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
    "idempotency-key",  # two customers may use the same one, and the provider sees one account
    "openai-organization",
    "openai-project",
}

_NOT_FORWARDED_PREFIXES: Final = ("x-forwarded-", "x-credits-", "x-creditgate-", "x-original-")

_UNCODED: Final = (b"accept-encoding", b"identity")
"""What is coded cannot be metered without decoding it."""


def may_price(name: str) -> bool:
    """Whether a header field reaches the upstream as the client sent it; name in lower case."""
    return name not in _NOT_FORWARDED and not name.startswith(_NOT_FORWARDED_PREFIXES)


_NOT_RETURNED: Final = HOP_BY_HOP | {
    "content-length",
    "set-cookie",
    "alt-svc",
    "strict-transport-security",
}
_UPSTREAM_IDS: Final = frozenset({"x-request-id", "request-id"})
UPSTREAM_ID: Final = "x-upstream-request-id"
"""How the client sees the upstream's id of its request; `x-request-id` is the gate's."""
_OURS_PREFIX: Final = "x-credits-"
"""What the gate alone may say of credits."""

_NAMES_REMEMBERED: Final = 256
_MAX_ID_CHARS: Final = 200
_PLAIN_CONNECTION: Final = frozenset({"keep-alive", "Keep-Alive", "close"})


class Forwarding:
    """The fields that one upstream sees: the caller's that pass, and the gate's own."""

    __slots__ = ("_added", "_decide", "_dropped")

    def __init__(self, added: Headers = (), internal: Iterable[str] = ()) -> None:
        """added: credential and configured fields. internal: further names that end at the gate."""
        replaced = {name.decode().lower() for name, _ in added}
        self._dropped = _NOT_FORWARDED | replaced | {name.lower() for name in internal}
        self._added = tuple(added)
        self._decide = lru_cache(_NAMES_REMEMBERED)(self._forwarded_name)

    def fields(
        self,
        sent: Iterable[tuple[str, str]],
        connection: str | None,
        request_id: str,
        media_type: str | None = "application/json",
    ) -> Headers:
        """connection: the value of the caller's Connection field, None when there is none.
        media_type: of the body that goes upstream; None when there is no body to be typed."""
        named: frozenset[str] = frozenset()
        if connection is not None and connection not in _PLAIN_CONNECTION:
            named = frozenset(connection.lower().replace(" ", "").split(","))
        decide = self._decide
        if named:
            sent = [field for field in sent if field[0].lower() not in named]
        passed = [
            (passing, value.encode("utf-8", "surrogateescape"))
            for name, value in sent
            if (passing := decide(name)) is not None
        ]
        passed += self._added
        if media_type is not None:
            passed.append((b"content-type", media_type.encode("utf-8", "surrogateescape")))
        passed.append(_UNCODED)
        passed.append((b"x-request-id", request_id.encode()))
        return passed

    def _forwarded_name(self, name: str) -> bytes | None:
        low = name.lower()
        drops = low in self._dropped or low.startswith(_NOT_FORWARDED_PREFIXES)
        return None if drops else name.encode("ascii")


@dataclass(slots=True)
class AnswerHead:
    """An upstream's fields, read once.

    fields:      those that the client sees; the upstream's request id under a name of its own
    request_id:  the upstream's id of the request
    """

    fields: list[tuple[str, str]]
    media_type: bytes = b""
    coding: bytes | None = None
    request_id: str | None = None


def read_head(fields: Headers) -> AnswerHead:
    """Read an answer's fields and decide which pass."""
    head = AnswerHead([])
    for name, raw in fields:
        passing, is_read = _returned_name(name)
        if passing is None:
            continue
        value = raw.decode("latin-1")
        if is_read:
            if passing == "content-type":
                head.media_type = raw
            elif passing == "content-encoding":
                head.coding = raw
            elif head.request_id is None:
                head.request_id = value[:_MAX_ID_CHARS]
            else:
                continue  # a provider that says it under both names
        head.fields.append((passing, value))
    return head


@lru_cache(_NAMES_REMEMBERED)
def _returned_name(name: bytes) -> tuple[str | None, bool]:
    """A field's name as the client sees it, None when it does not; and whether the gate reads it."""
    low = name.decode("latin-1").lower()
    if low in _UPSTREAM_IDS:
        return UPSTREAM_ID, True
    passes = low not in _NOT_RETURNED and not low.startswith(_OURS_PREFIX)
    return low if passes else None, low in ("content-type", "content-encoding")
