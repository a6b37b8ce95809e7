"""A mode that an operator has set, as the ledger keeps it: the msgpack array of its fields, in order."""

from dataclasses import replace
from typing import Final

from msgpack import packb, unpackb
from msgpack.exceptions import UnpackException

from gateway.domain.modes import MODES, SetMode

_FIELDS: Final = tuple(SetMode.__dataclass_fields__)


def pack_mode(mode: SetMode) -> bytes:
    """All fields."""
    packed: bytes = packb([getattr(mode, name) for name in _FIELDS])
    return packed


def read_mode(packed: bytes) -> SetMode:
    """Read back what `pack_mode` gave, without fields that a later release has appended.

    A record that cannot be read, or that has a mode of a later release, is one of `enforce`: what is
    not understood is not let through.
    """
    try:
        found = SetMode(*unpackb(packed)[: len(_FIELDS)])
    except (TypeError, ValueError, UnpackException):
        return SetMode("enforce", "unreadable", 0, "", "the ledger's record cannot be read")
    if found.mode in MODES:
        return found
    return replace(found, mode="enforce", reason=f"unknown mode {found.mode}: {found.reason}")
