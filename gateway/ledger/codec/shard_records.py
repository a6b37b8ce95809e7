"""Reads the record of a shard into a value, for what looks at it from outside."""

from dataclasses import dataclass
from typing import Final

from gateway.domain.delivery import Place
from gateway.ledger.codec.layout import SHARD
from gateway.ledger.codec.unpacking import check_layout, unpack

_SHARD: Final = SHARD.packed


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard record."""

    frozen: bool
    last: Place
    acked: Place | None


def read_shard(record: bytes) -> Shard:
    """Raises BadRecord."""
    layout, state, _, epoch, last_seq, acked_seq, acked_epoch = unpack(_SHARD, record)
    check_layout(layout)
    acked = Place(int(acked_epoch), int(acked_seq)) if acked_epoch else None
    return Shard(state == 1, Place(int(epoch), int(last_seq)), acked)
