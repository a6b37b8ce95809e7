"""Reads the body of a request: its type, its content coding, its bytes, and what it asks for.

Memory: `max_body_bytes` bounds both the bytes sent and what they decode to. A body that decodes to
more is refused in constant memory: up to `KEPT_BYTES` of it are kept while its size is still
unknown; a larger one is measured first and then decoded a second time.

Time: a body that is coded, large or has many values is read in a thread, one body at a time in each
worker. Parsers hold the interpreter's lock, so a thread alone bounds nothing: the pause of
the event loop is that of the longest single call, which `max_json_values` bounds. With two threads
the loop would wait for both.
"""

import asyncio
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from gateway.dialects.base import Asked, Dialect, ReadOptions, RequestFacts
from gateway.dialects.content_encoding import BadCoding, decode_pieces, knows_coding
from gateway.dialects.reading.value_count import mark_count
from gateway.flow.refusals import Particulars, Refused
from gateway.http.interface import Exchange

KEPT_BYTES: Final = 1 << 20
INLINE_BYTES: Final = 64 << 10
"""The largest body that is parsed on the event loop."""
INLINE_VALUES: Final = 4096
"""The most values that are parsed on the event loop: up to 2 ms."""
SWITCH_S: Final = 0.0001
"""How long the event loop waits for the interpreter's lock at each of its callbacks while the thread
runs Python code. By default it is 5 ms: at ten callbacks a request, other requests would crawl."""
_reading_thread: Final = ThreadPoolExecutor(
    1, "body", initializer=sys.setswitchinterval, initargs=(SWITCH_S,)
)
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


async def decode_in_thread(body: bytes, coding: str, limit_bytes: int) -> bytes:
    """A coded body, decoded. Raises Refused.

    Whatever its size: four kilobytes can decode to four megabytes.
    """
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_reading_thread, decode_body, body, coding, limit_bytes)


async def read_in_thread(asked: Asked, dialect: Dialect, options: ReadOptions) -> RequestFacts:
    """What a request with a large body asks for. Raises BadRequest."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_reading_thread, dialect.read, asked, options)


def reads_inline(body: bytes) -> bool:
    """Whether a body is read on the event loop: it is short and has few values."""
    size = len(body)  # a value takes at least a byte
    return size <= INLINE_VALUES or (size <= INLINE_BYTES and mark_count(body) <= INLINE_VALUES)


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
            Particulars(headers=(ACCEPTED,)),
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
    except BadCoding as bad:
        raise Refused("bad_request", f"The {coding} coding of the body {bad}.") from None


def names_a_key(query: str) -> bool:
    """Whether a query seems to carry a credential."""
    return bool(query) and _KEY_NAMES.search(query) is not None
