"""A tolerant JSON reader that streams: it keeps what is asked for and skips the rest.

An answer may be many megabytes long (media, embeddings, log probabilities) and not quite JSON (NaN,
lone surrogates, invalid UTF-8, control characters, trailing bytes); its usage may stand anywhere.
`Skimmer` takes the bytes as they come, in constant memory, and builds the document that a full
parse would give, reduced to:

- the members named in `kept`, and objects and lists on the way to them;
- everything below a member named in `complete`, attached once it has ended;
- of a long string its beginning and its size (`LongText`).

What it reads is what a JSON parser reads where the bytes are JSON. Where they are not, it resumes at
the next comma or bracket.
"""

import math
import re
from typing import Any, Final

import orjson

from gateway.dialects.reading.strings import EscapedString

MAX_ITEMS: Final = 10_000
"""Items kept of one list; the rest is skipped."""
MAX_NODES: Final = 20_000
"""Values kept below one member of the root; the rest is skipped."""
MAX_DEPTH: Final = 64
"""Containers nested deeper are skipped."""
MAX_SCALAR_BYTES: Final = 128

_TOKEN: Final = re.compile(rb'[\s:\x00]*+(["{}\[\]]|,[\s,]*+|[^\s:\x00,"{}\[\]]++)')
_STRING: Final = re.compile(rb'(?:[^"\\]++|\\[^u]|\\u[0-9a-fA-F]{4})*+', re.DOTALL)
_ESCAPE_BYTES: Final = 6
"""The longest escape, `\\uXXXX`."""
_PLAIN = rb'[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+"'
_FLAT = rb"[{\[](?:%b)*+[}\]]" % _PLAIN
_NESTED = rb"[{\[](?:%b|%b)*+[}\]]" % (_PLAIN, _FLAT)
_SKIPPED: Final = re.compile(rb"(?:%b|%b|%b)*+" % (_PLAIN, _FLAT, _NESTED), re.DOTALL)
"""Strings, scalars, and containers with at most one level below them, in one match."""
_BRACKETS: Final = re.compile(rb"[{\[]++|[}\]]++")
_SCALARS: Final = {
    b"true": True,
    b"false": False,
    b"null": None,
    b"NaN": math.nan,
    b"Infinity": math.inf,
    b"-Infinity": -math.inf,
}
BOM: Final = b"\xef\xbb\xbf"

_OPENED: Final = (b"{", b"[")
_CLOSED: Final = (b"}", b"]")


class _Container:
    """A kept object or list while it is open.

    complete:  everything in it is kept
    late:      its parent gets it when it has ended
    """

    __slots__ = ("complete", "key", "late", "value")

    def __init__(self, value: Any, *, complete: bool, late: bool) -> None:
        self.value = value
        self.complete = complete
        self.late = late
        self.key: str | None = None


class Skimmer:
    """Reads one document.

    document:   what was kept so far; None when the bytes are no JSON object or list
    ended:      nothing more is read: the document's last bracket has come, or it is no document
    """

    def __init__(self, kept: frozenset[str], complete: frozenset[str]) -> None:
        self.document: Any = None
        self.ended = False
        self._kept = kept | complete
        self._complete = complete
        self._stack: list[_Container] = []
        self._rest = b""
        self._begun = False
        self._nodes = 0
        self._string: EscapedString | None = None  # the kept string that is open
        self._skips_string = False
        self._skip_depth = 0  # containers open inside what is skipped
        self._skips_rest = False  # what is skipped is the rest of the innermost container

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Never raises."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at = 0 if self._begun else self._begin(data)
        size = len(data)
        while 0 <= at < size and not self.ended:
            if self._string is not None or self._skips_string:
                at = self._read_string(data, at)
            elif self._skip_depth:
                at = self._skip(data, at)
            else:
                at = self._read_token(data, at)

    # Each of these reads on from `at` and returns where to continue: at the end of `data` or, with
    # what cannot be read yet kept in `_rest`, −1.

    def _begin(self, data: bytes) -> int:
        start = data.removeprefix(BOM).lstrip()
        if start[:1] in _OPENED:
            self._begun = True
            return len(data) - len(start)
        if not start or BOM.startswith(data):
            self._rest = data[: len(BOM)]
        else:
            self.ended = True
        return -1

    def _read_token(self, data: bytes, at: int) -> int:
        match = _TOKEN.match(data, at)
        if match is None:
            return -1  # blanks to the end
        token, end = match[1], match.end()
        if token == b'"':
            top = self._stack[-1]
            if self._keeps(top) or (top.key is None and type(top.value) is dict):
                self._string = EscapedString()
            else:
                self._skips_string = True
        elif token in _OPENED:
            self._open(token)
        elif token in _CLOSED:
            self._close()
        elif token.startswith(b","):
            self._stack[-1].key = None
            if self._is_full():
                self._skip_depth, self._skips_rest = 1, True
        elif end == len(data):
            self._rest = token[: MAX_SCALAR_BYTES + 1]  # one that is longer has no meaning anyway
            return -1
        else:
            self._take(_scalar(token))
        return end

    def _read_string(self, data: bytes, at: int) -> int:
        match = _STRING.match(data, at)
        assert match is not None, "the pattern matches nothing, too"
        end = match.end()
        if self._string is not None:
            self._string.add(data[at:end])
        if data[end : end + 1] != b'"':
            if len(data) - end < _ESCAPE_BYTES:
                self._rest = data[end:]  # nothing, or an incomplete escape
                return -1
            if self._string is not None:  # no escape at all: taken as it is
                self._string.add(data[end : end + 2])
            return end + 2
        if self._string is not None:
            value, self._string = self._string.value(), None
            self._take_string(value)
        else:
            self._skips_string = False
            if not self._skip_depth:
                self._stack[-1].key = None
        return end + 1

    def _skip(self, data: bytes, at: int) -> int:
        match = _SKIPPED.match(data, at)
        assert match is not None, "the pattern matches nothing, too"
        end = match.end()
        brackets = _BRACKETS.match(data, end)
        if brackets is None:
            self._skips_string = end < len(data)  # a string that ends beyond these bytes
            return end + 1
        size = brackets.end() - end
        if data[end : end + 1] in _OPENED:
            self._skip_depth += size
            return end + size
        closed = min(size, self._skip_depth)
        self._skip_depth -= closed
        if not self._skip_depth:
            if self._skips_rest:
                self._skips_rest = False
                self._close()
            else:
                self._stack[-1].key = None
        return end + closed

    # What is done with a value

    def _keeps(self, top: _Container) -> bool:
        """Whether the value that comes next in this container is kept."""
        return top.complete or type(top.value) is list or top.key in self._kept

    def _is_full(self) -> bool:
        """Whether the rest of the innermost container is skipped. The root object never is: usage
        may be its last member."""
        value = self._stack[-1].value
        if type(value) is list and len(value) >= MAX_ITEMS:
            return True
        if len(self._stack) == 1:
            self._nodes = 0
            return False
        return self._nodes >= MAX_NODES

    def _open(self, token: bytes) -> None:
        value: Any = {} if token == b"{" else []
        if not self._stack:
            self.document = value
            self._stack.append(_Container(value, complete=False, late=False))
            return
        top = self._stack[-1]
        if not self._keeps(top) or len(self._stack) >= MAX_DEPTH:
            self._skip_depth = 1
            return
        complete = top.complete or top.key in self._complete
        late = complete and not top.complete
        if not late:
            self._attach(top, value)
        self._nodes += 1
        self._stack.append(_Container(value, complete=complete, late=late))

    def _close(self) -> None:
        ended = self._stack.pop()
        if not self._stack:
            self.ended = True
            return
        if ended.late:
            self._attach(self._stack[-1], ended.value)
        self._stack[-1].key = None

    def _take(self, value: Any) -> None:
        top = self._stack[-1]
        if self._keeps(top):
            self._nodes += 1
            self._attach(top, value)
        top.key = None

    def _take_string(self, value: str) -> None:
        top = self._stack[-1]
        if type(top.value) is dict and top.key is None:
            top.key = value
        else:
            self._take(value)

    @staticmethod
    def _attach(top: _Container, value: Any) -> None:
        if type(top.value) is list:
            top.value.append(value)
        elif top.key is not None:
            top.value[top.key] = value


def _scalar(token: bytes) -> Any:
    """A number, or a word; None for what means nothing."""
    if token in _SCALARS:
        return _SCALARS[token]
    try:
        return orjson.loads(token) if len(token) <= MAX_SCALAR_BYTES else None
    except orjson.JSONDecodeError:
        return None
