"""What a request's head must satisfy beyond what aiohttp's parser asks. Pure, no I/O.

The parser (3.14.5) refuses bare LF, obs-fold, NUL, bad lengths, bad chunk sizes, CL with TE,
two Hosts and no Host. It lets through what `head_problem` refuses; each rule says which row of
the bad-input catalogue it is. Everything refused here closes the connection: what is behind
such a head cannot be trusted to be where we think it is.
"""

import re
from collections.abc import Mapping
from typing import Final

from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.http_parser import RawRequestMessage

ALLOWED_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
ALLOW: Final = ", ".join(ALLOWED_METHODS)
_METHODS: Final = frozenset(ALLOWED_METHODS)

Problem = tuple[int, str]
"""Status and message of a refusal."""

# RFC 9110, 7.2 with RFC 3986, 3.2.2: a name, an IPv4 address or a bracketed IPv6 one, and a port.
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)

# RFC 3986, 3.3 without ";" parameters, and without empty segments before the last.
_PLAIN_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,=:@-]+)*/?", re.ASCII)
_ESCAPED_PATH: Final = re.compile(
    r"(?:/(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-Fa-f]{2})+)*/?", re.ASCII
)
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})", re.ASCII)
_NEVER_ESCAPED: Final = re.compile(r"[A-Za-z0-9._~/\\\x00-\x1f\x7f-]", re.ASCII)
_DOTS: Final = re.compile(r"/\.\.?(?:/|$)")

NO_ENDPOINT: Final = "There is no such endpoint."


def head_problem(message: RawRequestMessage) -> Problem | None:
    """Why this head is refused, or None. The path itself is `path_problem`'s."""
    headers = message.headers
    if message.method not in _METHODS:
        if message.method == "CONNECT":  # row 13
            return 400, "CONNECT is not served here."
        return 405, f"The method {message.method[:20]} is not served here."  # row 14
    version = message.version
    if version is not HttpVersion11 and version is not HttpVersion10:
        return 505, "Only HTTP/1.1 and HTTP/1.0 are served here."
    if message.chunked or "transfer-encoding" in headers:
        problem = _transfer_problem(version is HttpVersion10, headers)
        if problem is not None:
            return problem
    host = headers.get("host")
    if host is None:
        if version is HttpVersion11:
            return 400, "The Host header is missing."  # row 8
    elif not _HOST.fullmatch(host):
        return 400, "The Host header is not a host name."  # row 9
    # RFC 9110, 7.8: an upgrade may be ignored, and h2c is. A WebSocket cannot go on without it.
    if message.upgrade and _names_websocket(headers.get("upgrade", "")):
        return 426, "WebSockets are not served here; send the request as plain HTTP/1.1."  # row 15
    expect = headers.get("expect")
    if expect is not None and expect.lower() != "100-continue":
        return 417, "Only `Expect: 100-continue` can be met."  # row 16
    return None


def _names_websocket(upgrade: str) -> bool:
    protocols = (each.strip().lower() for each in upgrade.split(","))
    return any(each.partition("/")[0] == "websocket" for each in protocols)


def _transfer_problem(is_http10: bool, headers: Mapping[str, str]) -> Problem | None:
    if is_http10:
        # RFC 9112, 6.1: a server that receives TE on HTTP/1.0 must treat the framing as faulty.
        return 400, "Transfer-Encoding needs HTTP/1.1."  # row 4
    if headers["transfer-encoding"].lower() != "chunked":
        return 400, "The only transfer coding served here is `chunked`."  # rows 3, 4
    if "content-length" in headers:
        return 400, "Content-Length and Transfer-Encoding exclude each other."  # row 1
    return None


def path_problem(path: str) -> Problem | None:
    """Why a target's path (without the query) is refused, or None.

    A path has one spelling: what could be read as another path by whoever stands behind us is
    refused, so that a route's price and its upstream's work are about the same thing.
    """
    if _PLAIN_PATH.fullmatch(path):
        if "/." in path and _DOTS.search(path):
            return 400, "The path must not have dot segments."  # row 19
        return None
    if not path.startswith("/"):
        return 400, "The request target must be a path."  # row 20: absolute-form, `*`
    if "#" in path:
        return 400, "The request target must not have a fragment."  # row 20
    if any(_NEVER_ESCAPED.match(chr(int(code, 16))) for code in _ESCAPE.findall(path)):
        return 400, "The path escapes what has to be plain."  # row 19
    if _ESCAPED_PATH.fullmatch(path):
        return None
    if "%" in _ESCAPE.sub("", path) or "\\" in path:
        return 400, "The path is not valid."
    return 404, NO_ENDPOINT  # row 18: empty segments, `;` parameters
