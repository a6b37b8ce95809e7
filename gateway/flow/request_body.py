"""Reads a request's body: its type, its content coding, its bytes, all within one bound.

The bound (`max_body_bytes`) holds for what was sent and for what it decodes to. A body that decodes
to more is refused in constant memory: up to `KEPT_BYTES` of it are kept while its size is still
unknown; a larger one is measured first and then decoded again.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Final

from gateway.dialects.base import Asked, Dialect
from gateway.dialects.content_encoding import BadCoding, decode_pieces, knows_coding
from gateway.flow.refusals import Refused
from gateway.http.interface import Exchange

KEPT_BYTES: Final = 1 << 20
THREAD_BYTES: Final = 64 << 10
"""A coded body from this size on is decoded in a thread: other requests go on meanwhile."""
ACCEPTED: Final = ("accept-encoding", "gzip, deflate, br, zstd")  # RFC 9110, 15.5.16

_KEY_NAMES: Final = re.compile(r"(?:^|[&;])(?:key|api[-_]?key|access[-_]?token)=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BodyHead:
    """What the head says about the body.

    query:  what of the query the dialect reads
    coding: the content coding, None when the body is sent as it is
    """

    query: str
    coding: str | None


def read_body_head(exchange: Exchange, dialect: Dialect) -> BodyHead:
    """Check that a body of this kind can be read. Raises Refused."""
    query = exchange.query
    if query and dialect.reads_key_query:
        query = "&".join(each for each in query.split("&") if not each.startswith("key="))
    elif query and not dialect.reads_query and names_a_key(query):
        raise Refused("bad_key", "Send the API key in a header: query strings end up in logs.")
    coding = body_coding(exchange)
    media_type = exchange.header("content-type")
    if media_type is not None and not dialect.accepts(media_type):
        raise Refused("unsupported_media", dialect.wanted_type)
    return BodyHead(query, coding)


async def read_asked(exchange: Exchange, head: BodyHead, limit_bytes: int) -> Asked:
    """The request with its body, decoded. Raises Refused, BodyError, ClientGone."""
    body = await exchange.read_body(limit_bytes)
    if head.coding is not None:
        if len(body) < THREAD_BYTES:
            body = decode_body(body, head.coding, limit_bytes)
        else:
            body = await asyncio.to_thread(decode_body, body, head.coding, limit_bytes)
    return Asked(exchange.method, exchange.path, head.query, exchange.headers(), body)


def body_coding(exchange: Exchange) -> str | None:
    """The content coding of a request's body, None when it has none. Raises Refused."""
    values = exchange.header_values("content-encoding")
    if not values:
        return None
    names = [name.strip().lower() for value in values for name in value.split(",")]
    names = [name for name in names if name and name != "identity"]
    if not names:
        return None
    if len(names) > 1 or not knows_coding(names[0]):
        raise Refused(
            "unsupported_media",
            f"The content coding {', '.join(names)[:64]!r} is not supported. Send the body as it is,"
            " or in one of gzip, deflate, br and zstd.",
            headers=(ACCEPTED,),
        )
    return names[0]


def decode_body(body: bytes, coding: str, limit_bytes: int) -> bytes:
    """The body decoded once. Raises Refused: too_large beyond the limit, bad_request."""
    try:
        size = 0
        kept: list[bytes] = []
        for piece in decode_pieces(body, coding):
            size += len(piece)
            if size > limit_bytes:
                raise Refused(
                    "too_large",
                    f"The body decodes to more than the limit of {limit_bytes} bytes.",
                )
            if size <= KEPT_BYTES:
                kept.append(piece)
            else:
                kept.clear()
        return b"".join(decode_pieces(body, coding) if size > KEPT_BYTES else kept)
    except BadCoding:
        raise Refused("bad_request", f"The body is not valid {coding}.") from None


def names_a_key(query: str) -> bool:
    """Whether a query seems to carry a credential."""
    return bool(query) and _KEY_NAMES.search(query) is not None
