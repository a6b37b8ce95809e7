"""Reads the record of a shard into a value, for what looks at it from outside."""

from dataclasses import dataclass
from typing import Final

from gateway.domain.delivery import Place
from gateway.ledger.codec.layout import LOSS, SHARD
from gateway.ledger.codec.unpacking import check_layout, unpack

_SHARD: Final = SHARD.packed
_LOSS: Final = LOSS.packed


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


@dataclass(frozen=True, slots=True)
class LostRange:
    """Entries that a gate had seen and that neither the shard nor the store has: those behind `after`, up to
    `last`. Where the two are of different epochs, how many there are is not known."""

    after: Place
    last: Place

    def __str__(self) -> str:
        first = Place(self.after.epoch, self.after.seq + 1)
        return f"{first.epoch}-{first.seq} … {self.last.epoch}-{self.last.seq}"


@dataclass(frozen=True, slots=True)
class Loss:
    """What a shard has lost.

    seen:  the highest entry that whoever froze it knew of; None while it is open
    lost:  what the last repair that found anything lost could not find anywhere; None: nothing ever
    epoch: that began with that repair. at_ms: when, Unix ms
    """

    seen: Place | None
    lost: LostRange | None
    epoch: int
    at_ms: int


def read_loss(record: bytes) -> Loss:
    """Raises BadRecord."""
    layout, *numbers = unpack(_LOSS, record)
    check_layout(layout)
    seen_epoch, seen_count, epoch, at_ms, after_epoch, after_seq, last_epoch, last_seq = map(
        int, numbers
    )
    return Loss(
        Place(seen_epoch, seen_count - 1) if seen_count else None,
        LostRange(Place(after_epoch, after_seq), Place(last_epoch, last_seq)) if epoch else None,
        epoch,
        at_ms,
    )
