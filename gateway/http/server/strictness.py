"""Rules for single parts of a request's head: methods, hosts, upgrades, paths. Pure, no I/O.

Each rule says which row of the bad-input catalogue it is.
"""

import re
from typing import Final

from gateway.http.interface import RequestHead

ALLOWED_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
ALLOW: Final = ", ".join(ALLOWED_METHODS)
METHODS: Final = frozenset(ALLOWED_METHODS)

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


def host_problem(hosts: list[str], *, is_http10: bool) -> Problem | None:
    """Return why these values of Host are refused, or None (RFC 9112, 3.2)."""
    if len(hosts) > 1:
        return 400, "The Host header must appear once."  # row 8
    if not hosts:
        return None if is_http10 else (400, "The Host header is missing.")  # row 8
    if not _HOST.fullmatch(hosts[0]):
        return 400, "The Host header is not a host name."  # row 9
    return None


def names_websocket(head: RequestHead) -> bool:
    """Return whether the request asks to go on as a WebSocket (row 15)."""
    if "upgrade" not in _options(head.header_values("connection")):
        return False
    protocols = _options(head.header_values("upgrade"))
    return any(each.partition("/")[0] == "websocket" for each in protocols)


def _options(values: list[str]) -> list[str]:
    return [each.strip().lower() for value in values for each in value.split(",")]


def path_problem(path: str) -> Problem | None:
    """Return why a target's path (without the query) is refused, or None.

    A path has one spelling: what the upstream could read as another path is refused, so that a
    route's price and its upstream's work are about the same thing.
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
