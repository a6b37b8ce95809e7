"""Takes the ledger's records apart; the layouts are those of `layout.py`."""

import struct
from typing import Any

from gateway.ledger.codec.layout import LAYOUT


class BadRecord(ValueError):
    """The bytes are no record of this layout."""


def unpack(layout: struct.Struct, record: bytes, at: int = 0) -> tuple[Any, ...]:
    """The fields of one layout from a position on. Raises BadRecord."""
    try:
        return layout.unpack_from(record, at)
    except struct.error as error:
        raise BadRecord(f"the record ends early: {error}") from error


def check_layout(layout: int) -> None:
    """Raises BadRecord for a record of another layout than this release reads."""
    if layout != LAYOUT:
        raise BadRecord(f"layout {layout}; this release reads {LAYOUT}")
