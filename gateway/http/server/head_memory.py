"""Heads that were parsed before, recognised by their bytes. Pure, no I/O.

SDKs repeat their head byte for byte, but for the digits of Content-Length. A connection compares the
next head with the one before it; a new connection looks in the memory of its server. Equality of bytes
keeps this as strict as parsing, and the digits change nothing but the length of the body.
"""

import re
from typing import Final

from gateway.http.server.request_head import ParsedHead, parse_head

REMEMBERED_MAX: Final = 512
REMEMBERED_MAX_BYTES: Final = 4096
"""Longer heads are parsed each time."""

_LENGTH_LINE: Final = re.compile(
    rb"\r\ncontent-length:[ \t]*(0|[1-9][0-9]{0,9})(?=\r\n)", re.IGNORECASE
)
_DIGITS: Final = re.compile(rb"(0|[1-9][0-9]{0,9})(?=\r\n)")


class RememberedHead:
    """The bytes of a head around its Content-Length digits, and what parsing them gave."""

    __slots__ = ("after", "before", "parsed")

    def __init__(self, before: bytes, after: bytes, parsed: ParsedHead) -> None:
        self.before = before
        self.after = after
        """b"" for a head without Content-Length, which is all in `before`."""
        self.parsed = parsed

    def match(self, data: bytes) -> tuple[int, int] | None:
        """Return (bytes of the body, where it begins in data) if data begins with an equal head.

        Only the digits of Content-Length may differ: 1 to 10 of them, without leading zeros.
        """
        before = self.before
        if not data.startswith(before):
            return None
        after = self.after
        if not after:
            return 0, len(before)
        found = _DIGITS.match(data, len(before))
        if found is None:
            return None
        end = found.end()
        return (int(found[1]), end + len(after)) if data.startswith(after, end) else None


class HeadMemory:
    """The heads that a server has parsed last; connections whose heads are equal share one."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes], RememberedHead] = {}

    def read(self, block: bytes) -> tuple[ParsedHead, int | None, RememberedHead | None]:
        """Parse a complete head, or recognise it. Raises HeadRefused.

        Returns the head, the bytes of its body (None when it is chunked), and what recognises the
        next one like it (None when that is to be parsed again).
        """
        if len(block) > REMEMBERED_MAX_BYTES:
            parsed = parse_head(block)
            return parsed, parsed.content_length, None
        found = _LENGTH_LINE.search(block)
        key = (block, b"") if found is None else (block[: found.start(1)], block[found.end(1) :])
        known = self._known.get(key)
        if known is None:
            parsed = parse_head(block)
            if not parsed.plain or (found is None and parsed.content_length != 0):
                return parsed, parsed.content_length, None
            known = RememberedHead(*key, parsed)
            if len(self._known) >= REMEMBERED_MAX:
                del self._known[next(iter(self._known))]
            self._known[key] = known
        return known.parsed, 0 if found is None else int(found[1]), known
