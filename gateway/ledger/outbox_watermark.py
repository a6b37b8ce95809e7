"""What a process knows to have been written to each shard's outbox, so that a lost tail shows."""

from collections import defaultdict
from collections.abc import Callable, Mapping

from gateway.domain.delivery import Place


class OutboxWatermark:
    """The highest (epoch, seq) per shard, from replies and from what the store has acknowledged.

    Every script call carries it; a shard that has less answers `went_back`. Two ledgers of one
    process (admission, settlement) share one.
    """

    __slots__ = ("counts", "epochs", "on_went_back")

    def __init__(self, stored: Mapping[int, Place] | None = None) -> None:
        """stored: how far the store has each shard. A process that starts without it would take a
        shard that has lost a tail for a whole one."""
        self.on_went_back: Callable[[int], None] | None = None
        """Called with a shard that has answered `went_back`."""
        self.epochs: defaultdict[int, int] = defaultdict(int)
        self.counts: defaultdict[int, int] = defaultdict(int)
        """One more than the highest seq in that epoch: 0 is nothing."""
        self.note_stored(stored or {})

    def note(self, shard: int, epoch: int, seq: int) -> None:
        """This entry of the outbox exists."""
        if epoch > self.epochs[shard]:
            self.epochs[shard], self.counts[shard] = epoch, seq + 1
        elif epoch == self.epochs[shard] and seq >= self.counts[shard]:
            self.counts[shard] = seq + 1

    def note_stored(self, stored: Mapping[int, Place]) -> None:
        """The store has these entries, and all before them."""
        for shard, (epoch, seq) in stored.items():
            self.note(shard, epoch, seq)

    def went_back(self, shard: int) -> None:
        """A script has answered that the shard has less than this."""
        if self.on_went_back is not None:
            self.on_went_back(shard)

    def place(self, shard: int) -> Place:
        """The highest entry known; seq −1 is none."""
        return Place(self.epochs[shard], self.counts[shard] - 1)
