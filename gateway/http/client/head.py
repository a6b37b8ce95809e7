"""Heads of responses: a strict grammar (RFC 9112, 4 and 5), and layouts that make it cheap.

An upstream repeats itself: between two responses the values change, but the status, the field names
and their order seldom do. A layout is one such sequence with everything that follows from it: framing,
keep-alive, which fields are end-to-end. A layout that is seen again is compiled to one pattern that
checks the complete head and yields all values in a single call. Its character classes are those of
the general grammar, so that it accepts nothing that the general grammar refuses.

Stricter than RFC 9112 asks for: no bare LF, no folded lines, no whitespace before a colon, exactly one
Content-Length, nothing in Transfer-Encoding but `chunked`, never both.
"""

import re
from collections.abc import Callable
from typing import Final

from gateway.http.upstream_interface import FieldNames

HEAD_MOST_BYTES: Final = 64 * 1024
HEAD_MOST_FIELDS: Final = 128
_LAYOUTS_MOST: Final = 64
_COMPILED_MOST: Final = 32
"""Compiling takes about 100 µs a field: an upstream whose heads never repeat must not cause it."""
_TRIED_MOST: Final = 4

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_TEXT: Final = rb"[\t\x20-\x7e\x80-\xff]"
_REASON: Final = rb"(?: " + _TEXT + rb"*+)?\r\n"
_VALUE: Final = _TEXT + rb"*+(?<![ \t])"
_HEAD: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-5][0-9][0-9])"
    + _REASON
    + rb"((?:"
    + _TOKEN
    + rb"++:"
    + _TEXT
    + rb"*+\r\n)*+)\r\n"
)
_FIELD: Final = re.compile(rb"([^:]++):([^\r]*+)\r\n")
_START: Final = re.compile(rb"HTTP/1\.[01] [1-5][0-9][0-9][ \r]")
_START_SAMPLE: Final = b"HTTP/1.1 200 "
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

Values = tuple[bytes, ...]
Match = Callable[[bytes, int, int], re.Match[bytes] | None]
"""`re.Pattern.match`, with the first position and the end."""


def _match_nothing(_data: bytes, _start: int, _end: int) -> None:
    """Match no head: what a layout that is not compiled does."""


class Malformed(Exception):
    """The upstream's bytes are not one response that this client accepts."""


class Layout:
    """What follows from the status, the names, and the values that concern the connection.

    names:     the end-to-end fields' names
    length_at: position of Content-Length among their values, -1 without one
    kept:      positions of the end-to-end fields among all as sent
    chunked:   the body comes in chunks
    bodyless:  204 and 304
    usual:     a final response whose end Content-Length alone says, and that keeps the connection
    match:     the compiled pattern's: matches a complete head, its groups are the values
    """

    __slots__ = (
        "bodyless",
        "chunked",
        "keep_alive",
        "kept",
        "length_at",
        "match",
        "names",
        "status",
        "usual",
    )

    def __init__(self, version: bytes, status: int, names: Values, values: Values) -> None:
        self.status = status
        self.match: Match = _match_nothing
        lower = [name.lower() for name in names]
        length_at = lower.index(b"content-length") if b"content-length" in lower else -1
        self.chunked = False
        options: set[bytes] = set()
        for at, (name, value) in enumerate(zip(lower, values, strict=True)):
            if name == b"transfer-encoding":
                if self.chunked or length_at >= 0 or value.lower() != b"chunked":
                    raise Malformed("a transfer coding that was not asked for")
                self.chunked = True
            elif name == b"connection":
                options.update(option.strip() for option in value.lower().split(b","))
            elif name == b"content-length" and (at != length_at or not _LENGTH.fullmatch(value)):
                raise Malformed("not one length")
        self.bodyless = status in (204, 304)
        framed = self.bodyless or self.chunked or length_at >= 0
        # RFC 9112, 9.3: persistent by default since 1.1. A chunked 1.0 message is faulty framing (6.1).
        stays = b"close" not in options if version == b"1" else b"keep-alive" in options
        self.keep_alive = framed and stays and not (self.chunked and version == b"0")
        final = status >= 200 and not self.bodyless
        self.usual = final and self.keep_alive and length_at >= 0
        # Content-Length is for this client, so an option of Connection cannot make it hop-by-hop.
        dropped = (_HOP_BY_HOP | options) - {b"content-length"}
        self.kept = [at for at, name in enumerate(lower) if name not in dropped]
        self.names = FieldNames(tuple(lower[at] for at in self.kept))
        self.length_at = self.names.index.get(b"content-length", -1)


Head = tuple[Layout, Values, int]
"""A complete head: its layout, the end-to-end values, and where the body begins."""


class HeadReader:
    """Reads heads of one upstream's responses, and remembers their layouts."""

    __slots__ = ("_compiled", "_layouts", "_tried", "latest")

    def __init__(self) -> None:
        self._layouts: dict[tuple[bytes, bytes, Values, Values], Layout] = {}
        self.latest = Layout(b"1", 200, (), ())
        """The compiled layout that was used last; at first one that matches nothing."""
        self._tried: list[Layout] = []
        """Compiled layouts, the last used first."""
        self._compiled = 0

    def read(self, data: bytes) -> Head | None:
        """Read the head at the start of the data; None unless there is a complete, valid one.

        Raises Malformed for a valid head that is not acceptable.
        """
        for layout in self._tried:
            match = layout.match(data, 0, HEAD_MOST_BYTES)
            if match is not None:
                if layout is not self.latest:
                    self._promote(layout)
                return layout, match.groups(), match.end()
        return self._read_new(data)

    def _read_new(self, data: bytes) -> Head | None:
        match = _HEAD.match(data)
        if match is None:
            return None
        version, status, block = match.groups()
        fields = _FIELD.findall(block)
        if len(fields) > HEAD_MOST_FIELDS or match.end() > HEAD_MOST_BYTES:
            raise Malformed("too large a head")
        names = tuple(name for name, _ in fields)
        values = tuple(value.strip(b" \t") for _, value in fields)
        lasting = tuple(
            value
            for name, value in zip(names, values, strict=True)
            if name.lower() in (b"connection", b"transfer-encoding")
        )
        key = (version, status, names, lasting)
        layout = self._layouts.get(key)
        if layout is None:
            layout = Layout(version, int(status), names, values)
            if len(self._layouts) >= _LAYOUTS_MOST:
                self._layouts.clear()
            self._layouts[key] = layout
            return layout, tuple(values[at] for at in layout.kept), match.end()
        kept = tuple(values[at] for at in layout.kept)
        if layout.length_at >= 0 and not _LENGTH.fullmatch(kept[layout.length_at]):
            raise Malformed("not one length")
        if layout.match is _match_nothing and self._compiled < _COMPILED_MOST:
            self._compile(layout, version, names, values)
        if layout.match is not _match_nothing:
            self._promote(layout)
        return layout, kept, match.end()

    def _promote(self, layout: Layout) -> None:
        self.latest = layout
        self._tried = [layout, *(each for each in self._tried if each is not layout)][:_TRIED_MOST]

    def _compile(self, layout: Layout, version: bytes, names: Values, values: Values) -> None:
        self._compiled += 1
        parts = [rb"HTTP/1\.%b %d" % (version, layout.status), _REASON]
        for at, (name, value) in enumerate(zip(names, values, strict=True)):
            match name.lower():
                case b"connection" | b"transfer-encoding":
                    text = re.escape(value)
                case b"content-length":
                    text = _LENGTH.pattern
                case _:
                    text = _VALUE
            group = rb"(%b)" if at in layout.kept else rb"(?:%b)"
            parts.append(rb"%b:[ \t]*+%b\r\n" % (re.escape(name), group % text))
        parts.append(rb"\r\n")
        layout.match = re.compile(b"".join(parts)).match


class PartialHead:
    """A head whose end has not arrived. Raises Malformed when it can never be a valid one."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        """data: what `HeadReader.read` found no head in"""
        if b"\r\n\r\n" in data:
            raise Malformed("not a head of HTTP/1.1")
        check_incomplete(data, 0)
        self._data = bytearray(data)

    def add(self, data: bytes) -> bytes:
        """Add the next bytes. Returns all so far once the head's end is among them, else b""."""
        seen = len(self._data)
        self._data += data
        if self._data.find(b"\r\n\r\n", max(seen - 3, 0)) < 0:
            check_incomplete(self._data, seen)
            return b""
        return bytes(self._data)


def check_incomplete(head: bytes | bytearray, seen: int) -> None:
    """Check the beginning of a head whose end has not arrived, so that garbage fails at once.

    seen: how many bytes an earlier call has checked. Raises Malformed.
    """
    if len(head) > HEAD_MOST_BYTES:
        raise Malformed("too large a head")
    start = bytes(head[: len(_START_SAMPLE)])
    if not _START.match(start + _START_SAMPLE[len(start) :]):
        raise Malformed("not a response of HTTP/1.1")
    # A line that ends in a bare LF would let the head never end.
    at = head.find(b"\n", max(seen - 1, 0))
    while at >= 0:
        if head[at - 1 : at] != b"\r":
            raise Malformed("a bare line feed")
        at = head.find(b"\n", at + 1)
