"""Which header fields pass the gate, in which direction. Both directions are allow-lists.

RFC 9110, 7.6.1: fields that `Connection` names and the hop-by-hop ones end here. Of a request, what
the caller's API defines and the operator names for the upstream passes (`dialects/passing.py`). Of an
answer, what describes the answer passes; what describes the operator's account with the provider
(rate limits, organisation, cookies) or imitates the gate does not.

Each name is decided once and remembered; a request only looks names up.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Final

from gateway.dialects.passing import (
    BETA_FIELDS,
    HARMLESS_BETAS,
    REQUEST_FIELDS,
    passing_betas,
)
from gateway.flow.header_names import NEVER_FORWARDED, RETURNED
from gateway.http.interface import FieldNames, Headers, encode_fields

_UNCODED: Final = (b"accept-encoding", b"identity")
"""What is coded cannot be metered without decoding it."""

_UPSTREAM_IDS: Final = frozenset({"x-request-id", "request-id"})
UPSTREAM_ID: Final = "x-upstream-request-id"
"""How the client sees the upstream's id of its request; `x-request-id` is the gate's."""

_NAMES_REMEMBERED: Final = 256
_MAX_ID_CHARS: Final = 200
_PLAIN_CONNECTION: Final = frozenset({"keep-alive", "Keep-Alive", "close"})


@dataclass(frozen=True, slots=True)
class Passing:
    """What the operator lets pass for one upstream, beyond what always does; names in lower case.

    request:   header fields of requests
    betas:     names in `anthropic-beta` and `openai-beta`
    answer:    header fields of answers
    internal:  header fields of requests that end at the gate whatever else is said
    """

    request: frozenset[str] = frozenset()
    betas: frozenset[str] = frozenset()
    answer: frozenset[str] = frozenset()
    internal: frozenset[str] = frozenset()


class Forwarding:
    """The fields that one upstream sees: the caller's that pass, and the gate's own."""

    __slots__ = ("_added", "_betas", "_decide", "_dropped", "_passing", "returning")

    def __init__(self, added: Headers = (), passing: Passing | None = None) -> None:
        """added: credential and configured fields."""
        passing = passing or Passing()
        replaced = {name.decode().lower() for name, _ in added}
        self._dropped = NEVER_FORWARDED | replaced | passing.internal
        self._passing = passing.request
        self._betas = HARMLESS_BETAS | passing.betas
        self._added = tuple(added)
        self._decide = lru_cache(_NAMES_REMEMBERED)(self._forwarded_name)
        self.returning = Returning(RETURNED | passing.answer)
        """Which fields of its responses the client sees."""

    def fields(
        self,
        sent: Iterable[tuple[str, str]],
        connection: str | None,
        media_type: str | None = "application/json",
        api: str = "generic",
    ) -> bytes:
        """The fields of a forwarded request as encoded lines, without `x-request-id`.

        connection: the value of the caller's Connection field, None when there is none.
        media_type: of the body that goes upstream; None when there is no body to be typed.
        api: whose fields pass, a key of `REQUEST_FIELDS`
        """
        named: frozenset[str] = frozenset()
        if connection is not None and connection not in _PLAIN_CONNECTION:
            named = frozenset(connection.lower().replace(" ", "").split(","))
        passed: list[tuple[bytes, bytes]] = []
        for name, value in sent:
            if named and name.lower() in named:
                continue
            passing, lists_betas = self._decide(name, api)
            if passing is None:
                continue
            if lists_betas:
                value = passing_betas(value, self._betas)
                if not value:
                    continue
            passed.append((passing, value.encode("utf-8", "surrogateescape")))
        passed += self._added
        if media_type is not None:
            passed.append((b"content-type", media_type.encode("utf-8", "surrogateescape")))
        passed.append(_UNCODED)
        return encode_fields(passed)

    def _forwarded_name(self, name: str, api: str) -> tuple[bytes | None, bool]:
        """The name as it goes upstream, None when it does not; and whether its value lists betas."""
        low = name.lower()
        passes = low in REQUEST_FIELDS[api] or low in self._passing
        if not passes or low in self._dropped or not name.isascii():
            return None, False
        return name.encode("ascii"), low in BETA_FIELDS


class ResponseHead:
    """The fields of an upstream's response, as far as they pass or matter.

    lines:            those that the client sees, encoded; the upstream's request id under the name
                      `x-upstream-request-id`
    media_type:       in lower case
    content_encoding: None when the body is not encoded
    request_id:       the upstream's id of the request, at most 200 characters
    """

    __slots__ = ("content_encoding", "lines", "media_type", "request_id")

    def __init__(
        self,
        lines: bytes,
        media_type: str,
        content_encoding: bytes | None,
        request_id: str | None,
    ) -> None:
        self.lines = lines
        self.media_type = media_type
        self.content_encoding = content_encoding
        self.request_id = request_id


class Layout:
    """How to read responses that name the same fields in the same order.

    template, pick: the encoded lines for the client, and the values that go into them
    The other attributes are the places of what the gate reads; −1 where it is absent.
    """

    __slots__ = ("coding_at", "id_at", "of", "pick", "template", "type_at")

    def __init__(self, of: "Returning", names: Sequence[bytes]) -> None:
        self.of = of
        self.type_at = self.coding_at = self.id_at = -1
        places: list[int] = []
        lines: list[bytes] = []
        for at, name in enumerate(names):
            low = name.decode("latin-1").lower()
            if low in _UPSTREAM_IDS:
                if self.id_at >= 0:
                    continue  # a provider that says it under both names
                self.id_at = at
                low = UPSTREAM_ID
            elif low not in of.returned:
                continue
            elif low == "content-type":
                self.type_at = at
            elif low == "content-encoding":
                self.coding_at = at
            places.append(at)
            lines.append(low.encode().replace(b"%", b"%%") + b": %b\r\n")
        self.template = b"".join(lines)
        # The getter gives a tuple for several places alone; two of a kind are never shown.
        self.pick = itemgetter(*places) if places else None


class Returning:
    """Decides which fields of an upstream's responses the client sees."""

    __slots__ = ("returned",)

    def __init__(self, returned: frozenset[str] = RETURNED) -> None:
        """returned: names in lower case, in addition to the upstream's request id."""
        self.returned = returned

    def read(self, names: FieldNames, values: Sequence[bytes]) -> ResponseHead:
        """Read a response's fields once; what follows from their names is kept with the names."""
        layout = names.memo
        if not isinstance(layout, Layout) or layout.of is not self:
            layout = names.memo = Layout(self, names.names)
        at = layout.id_at
        request_id = None
        if at >= 0:
            value = values[at]
            if len(value) > _MAX_ID_CHARS:
                values = [*values[:at], value[:_MAX_ID_CHARS], *values[at + 1 :]]
            request_id = values[at].decode("latin-1")
        pick, type_at, coding_at = layout.pick, layout.type_at, layout.coding_at
        return ResponseHead(
            b"" if pick is None else layout.template % pick(values),
            "" if type_at < 0 else _lower(values[type_at]),
            None if coding_at < 0 else values[coding_at],
            request_id,
        )


@lru_cache(_NAMES_REMEMBERED)
def _lower(media_type: bytes) -> str:
    return media_type.decode("latin-1").lower()
