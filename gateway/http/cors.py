"""Cross-origin requests from browsers (WHATWG Fetch, 3.2), for the origins that the operator lists.

The gate answers preflights itself: they carry no key, and nothing is forwarded. Cookies play no
part, because callers authenticate by a header that a page's script has to set.
"""

import re
from collections.abc import Sequence
from typing import Final

from gateway.http.interface import Exchange, encode_fields

EXPOSED: Final = ", ".join(
    (
        *("x-request-id", "request-id", "x-upstream-request-id", "x-error-source"),
        *("x-credits-reserved", "x-credits-remaining", "x-credits-cost", "x-credits-max-tokens"),
        *("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"),
        *("x-ratelimit-reset-requests", "x-ratelimit-limit-tokens"),
        *("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
        *("retry-after", "x-should-retry", "idempotent-replayed"),
    )
)
"""What a page's script may read of a response, in addition to the few fields it always may."""
METHODS: Final = "GET, POST, PUT, PATCH, DELETE"
_MAX_AGE_S: Final = 600
_NAMES: Final = re.compile(r"[A-Za-z0-9-]{1,64}(?: *, *[A-Za-z0-9-]{1,64}){0,63}", re.ASCII)
ANY: Final = "*"
_VARY: Final = encode_fields((("vary", "origin"),))


def is_preflight(exchange: Exchange) -> bool:
    """Return whether a browser asks what it may send."""
    return (
        exchange.method == "OPTIONS"
        and exchange.header("origin") is not None
        and exchange.header("access-control-request-method") is not None
    )


class Cors:
    """Which pages may call the gate. origins: as browsers send them, or `*` for all."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origins)

    def fields(self, exchange: Exchange) -> bytes:
        """Return the encoded fields that any response to this request carries for its page."""
        origin = exchange.header("origin")
        if ANY in self._origins:
            allowed = ANY
        elif origin in self._origins:
            assert origin is not None
            allowed = origin
        else:
            return _VARY  # a cache must not give this response to another page
        return encode_fields(
            (
                ("access-control-allow-origin", allowed),
                ("access-control-expose-headers", EXPOSED),
                ("vary", "origin"),
            )
        )

    async def answer(self, exchange: Exchange) -> None:
        """Answer a preflight; `fields` say whether its origin is allowed. Raises ClientGone."""
        asked = exchange.header("access-control-request-headers") or ""
        headers = [("access-control-allow-methods", METHODS)]
        if _NAMES.fullmatch(asked.strip()):
            headers.append(("access-control-allow-headers", asked.strip()))
        headers.append(("access-control-max-age", str(_MAX_AGE_S)))
        await exchange.answer(204, encode_fields(headers), b"")
