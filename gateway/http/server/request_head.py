"""A request's head, from its bytes to a `ParsedHead`. Pure, no I/O.

Two readings have to agree: llhttp's (through httptools), and a grammar that is stricter than llhttp
is about line ends, white space, methods, versions, hosts, transfer codings and paths. Each rule says
which row of the bad-input catalogue it is. A refused head closes its connection: where the next
request begins is no longer known.

A head is parsed alone, without what follows it, so nothing behind a request can change how the
request is read.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import httptools

from gateway.http.interface import RequestHead
from gateway.http.server.strictness import (
    METHODS,
    Problem,
    host_problem,
    names_websocket,
    path_problem,
)

LINE_MAX_BYTES: Final = 8190
FIELDS_MAX: Final = 100
HEAD_MAX_BYTES: Final = 64 * 1024
HEAD_END: Final = b"\r\n\r\n"

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
# Possessive, so that a head which does not match is refused in one pass.
_HEAD: Final = re.compile(
    rb"(%b{1,40}+) ([\x21-\x7e]++)(?: HTTP/([0-9])\.([0-9]))?+\r\n"
    rb"((?:%b++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n" % (_TOKEN, _TOKEN)
)
_REQUEST_LINE_START: Final = re.compile(rb"%b{1,40}(?: |\Z)" % _TOKEN)
_BAD_LINE_END: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
_LONG_LINE: Final = re.compile(rb"[^\n]{%d}" % (LINE_MAX_BYTES + 2))
_LENGTH: Final = re.compile(r"[0-9]{1,19}", re.ASCII)

_CONTINUE: Final = "100-continue"

_MALFORMED: Final = (400, "The request is not valid HTTP/1.1.")
_TOO_LONG: Final = (431, "A header field or the request line is too long.")
_TOO_LARGE: Final = (431, "The request's head is too large.")


class HeadRefused(Exception):
    """This head is refused; problem: status and message."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem[1])
        self.problem = problem


@dataclass(frozen=True, slots=True)
class ParsedHead:
    """What the server needs of a head, in addition to what the flow sees.

    content_length:  bytes of the body, 0 without one; None when it is chunked
    keep_alive:      whether the client keeps the connection (RFC 9112, 9.3)
    expects:         whether it waits for 100 (Continue) before it sends the body
    plain:           whether an equal head may be recognised without parsing
    usual:           whether a response of known length needs no framing but that: HTTP/1.1, the
                     client keeps the connection, and not HEAD
    """

    head: RequestHead
    content_length: int | None
    keep_alive: bool
    is_http10: bool
    expects: bool
    plain: bool
    usual: bool


def beginning_problem(data: bytes | bytearray, checked: int) -> Problem | None:
    """Return why the beginning of a head, whose end has not arrived, is already refused.

    checked: how many of the bytes an earlier call has seen
    """
    if len(data) > HEAD_MAX_BYTES:
        return _TOO_LARGE
    if _BAD_LINE_END.search(data, max(checked - 1, 0)):
        return _MALFORMED  # row 5
    if checked < 41 and not _REQUEST_LINE_START.match(data):
        return _MALFORMED  # row 13: TLS and other protocols
    if len(data) - max(data.rfind(b"\n"), 0) > LINE_MAX_BYTES + 2:
        return _TOO_LONG  # row 11
    return None


class _Reading:
    """llhttp's reading of one head."""

    __slots__ = ("complete", "fields", "keep_alive", "parser", "target")

    def __init__(self) -> None:
        self.fields: list[tuple[str, str]] = []
        self.target = b""
        self.complete = False
        self.keep_alive = False
        self.parser = httptools.HttpRequestParser(self)

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((_name(name), value.decode("utf-8", "surrogateescape")))

    def on_headers_complete(self) -> None:
        self.complete = True
        self.keep_alive = self.parser.should_keep_alive()


@lru_cache(256)
def _name(name: bytes) -> str:
    """One string for each name that clients use, instead of one per request."""
    return name.decode("ascii")


def parse_head(block: bytes) -> ParsedHead:
    """Parse a complete head: all bytes up to and including the empty line. Raises HeadRefused.

    Values are UTF-8, with surrogates for bytes that are not.
    """
    if len(block) > HEAD_MAX_BYTES:
        raise HeadRefused(_TOO_LARGE)
    if _LONG_LINE.search(block):
        raise HeadRefused(_TOO_LONG)  # row 11
    matched = _HEAD.fullmatch(block)
    if matched is None:
        raise HeadRefused(_MALFORMED)  # row 5
    method, target, major, minor, lines = matched.groups()
    problem = _line_problem(method.decode("ascii"), major, minor)
    if problem is not None:
        raise HeadRefused(problem)
    if lines.count(b"\n") > FIELDS_MAX:
        raise HeadRefused((400, f"The request has more than {FIELDS_MAX} header fields."))
    reading = _Reading()
    try:
        reading.parser.feed_data(block)
    except httptools.HttpParserUpgrade:
        pass  # the offer is ignored, so HTTP/1.1 follows (RFC 9110, 7.8)
    except (httptools.HttpParserError, UnicodeDecodeError):
        raise HeadRefused(_MALFORMED) from None
    if not reading.complete or reading.target != target:
        raise HeadRefused(_MALFORMED)
    path, _, query = target.decode("ascii").partition("?")
    head = RequestHead(
        method.decode("ascii"),
        path,
        query,
        [field for field in reading.fields if field[0].lower() != "content-length"],
    )
    return _checked(head, reading, is_http10=minor == b"0")


def _line_problem(method: str, major: bytes | None, minor: bytes | None) -> Problem | None:
    if method not in METHODS:
        if method in ("CONNECT", "PRI"):  # row 13
            return 400, f"{method} is not served here."
        return 405, f"The method {method[:20]} is not served here."  # row 14
    if major != b"1":
        return 505, "Only HTTP/1.1 and HTTP/1.0 are served here."
    return None if minor in (b"0", b"1") else _MALFORMED


def _checked(head: RequestHead, reading: _Reading, *, is_http10: bool) -> ParsedHead:
    """Check a head whose bytes are sound. Raises HeadRefused."""
    lengths = [value for name, value in reading.fields if name.lower() == "content-length"]
    codings = head.header_values("transfer-encoding")
    expect = head.header("expect")
    upgrade = head.header("upgrade")
    problem = _framing_problem(lengths, codings, is_http10=is_http10)
    problem = problem or host_problem(head.header_values("host"), is_http10=is_http10)
    if problem is None and upgrade is not None and names_websocket(head):
        # RFC 9110, 7.8: an upgrade may be ignored, and h2c is. A WebSocket cannot go on without it.
        problem = 426, "WebSockets are not served here; send the request as plain HTTP/1.1."  # 15
    if problem is None and not all(
        each.lower() == _CONTINUE for each in head.header_values("expect")
    ):
        problem = 417, "Only `Expect: 100-continue` can be met."  # row 16
    if problem is None and "#" in head.query:
        problem = 400, "The request target must not have a fragment."  # row 20
    problem = problem or path_problem(head.path)
    if problem is not None:
        raise HeadRefused(problem)
    return ParsedHead(
        head,
        None if codings else int(lengths[0]) if lengths else 0,
        keep_alive=reading.keep_alive,
        is_http10=is_http10,
        expects=expect is not None and not is_http10,  # RFC 9110, 10.1.1
        plain=not codings and expect is None and upgrade is None,
        usual=reading.keep_alive and not is_http10 and head.method != "HEAD",
    )


def _framing_problem(lengths: list[str], codings: list[str], *, is_http10: bool) -> Problem | None:
    if codings:
        if is_http10:
            # RFC 9112, 6.1: Transfer-Encoding in HTTP/1.0 means that the framing is faulty.
            return 400, "Transfer-Encoding needs HTTP/1.1."  # row 4
        if len(codings) > 1 or codings[0].lower() != "chunked":
            return 400, "The only transfer coding served here is `chunked`."  # rows 3, 4
        if lengths:
            return 400, "Content-Length and Transfer-Encoding exclude each other."  # row 1
    elif lengths and (len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0])):
        return 400, "Content-Length must be one decimal number."  # row 2
    return None
