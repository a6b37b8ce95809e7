"""A note about a request whose response was not fully delivered, as workers share it: msgpack."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from msgpack import packb, unpackb

Kind = Literal[
    "unanswered",  # its response was not fully delivered, and it is or will be charged
    "not_charged",  # it was released after all
    "repeated",  # a retry of it has been answered
]
_KINDS: Final = frozenset(get_args(Kind))


@dataclass(frozen=True, slots=True)
class Note:
    """What one worker reports about a request.

    whose:   customer and API key. digest: of these, the route and the body, 16 bytes; both of an
             `unanswered` one alone
    """

    kind: Kind
    request_id: str
    whose: str = ""
    digest: bytes = b""


def pack_note(note: Note) -> bytes:
    """All fields, in their order."""
    packed: bytes = packb([note.kind, note.request_id, note.whose, note.digest])
    return packed


def read_note(packed: bytes) -> Note | None:
    """None for what another release may write."""
    try:
        kind, request_id, whose, digest, *_ = unpackb(packed)
    except ValueError:
        return None
    return Note(kind, request_id, whose, digest) if kind in _KINDS else None
