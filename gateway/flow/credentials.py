"""What a request says of who is asking: an API key, or the header of a gateway that has authenticated."""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_plus

from gateway.domain.key_terms import Network, parse_address
from gateway.flow.refusals import Refused
from gateway.http.interface import Exchange

MAX_KEY_CHARS: Final = 512
MAX_ID_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class TrustedHeader:
    """A header that names the customer, believed from these networks alone."""

    customer_header: str
    key_header: str | None
    project_header: str | None
    networks: tuple[Network, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The headers that it reads."""
        named = (self.customer_header, self.key_header, self.project_header)
        return tuple(name for name in named if name)

    def trusts(self, remote: str) -> bool:
        """Whether the peer lies in a trusted network."""
        address = parse_address(remote)
        return address is not None and any(address in network for network in self.networks)


def key_digest(pepper: bytes) -> Callable[[str], str]:
    """How a key is hashed here: plain SHA-256, or HMAC-SHA-256 where there is a pepper."""
    if pepper:
        return lambda key: hmac.new(pepper, key.encode(), hashlib.sha256).hexdigest()
    return lambda key: hashlib.sha256(key.encode()).hexdigest()


def told(exchange: Exchange, header: str | None) -> str | None:
    """What the gateway in front says in a header. Raises Refused(bad_key): two values may mean
    that it added its own to the caller's."""
    values = exchange.header_values(header) if header else ()
    if not values:
        return None
    value = values[0]
    if (
        len(values) > 1
        or len(value) > MAX_ID_CHARS
        or not (value.isascii() and value.isprintable())
    ):
        raise Refused("bad_key", "What the gateway in front said of this caller is not an id.")
    return value


KEY_FIELDS: Final = ("x-api-key", "api-key", "x-goog-api-key")
"""Header fields that hold a key and nothing else: Anthropic's, Azure's, Gemini's."""


def credential(exchange: Exchange, *, query_key: bool = False) -> str:
    """The one API key that a request shows. Raises Refused(bad_key) for none, several, malformed.

    SDKs and the gateways in front of them send one key in several places, and leave others empty:
    the same key is one, and what is empty is not there.

    query_key: the key may be the query's `key`
    """
    shown = [_bearer(value) for value in exchange.header_values("authorization")]
    for name in KEY_FIELDS:
        shown += exchange.header_values(name)
    if query_key and exchange.query:
        shown += [
            unquote_plus(each[4:]) for each in exchange.query.split("&") if each.startswith("key=")
        ]
    keys = {key for value in shown if (key := value.strip())}
    if not keys:
        raise Refused(
            "bad_key", "No API key. Send it as `Authorization: Bearer KEY` or as `x-api-key`."
        )
    if len(keys) > 1:
        raise Refused("bad_key", "Two different API keys were sent. Send one.")
    key = keys.pop()
    if len(key) > MAX_KEY_CHARS or not key.isascii() or not key.isprintable():
        raise Refused("bad_key", "This is not an API key.")
    return key


def _bearer(value: str) -> str:
    """The key in an Authorization field, empty where it is. Raises Refused(bad_key)."""
    scheme, _, key = value.strip().partition(" ")
    if scheme and scheme.lower() != "bearer":
        raise Refused("bad_key", "Send the API key as `Authorization: Bearer KEY`.")
    return key
