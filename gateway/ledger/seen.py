"""What a process knows to have been written to each shard's outbox, so that a lost tail shows."""

from collections import defaultdict

from gateway.domain.delivery import Place


class Seen:
    """The highest (epoch, seq) per shard, from replies and from what the store has acknowledged.

    Every script call carries it; a shard that has less answers `went_back`. Two ledgers of one
    process (admission, settlement) share one.
    """

    __slots__ = ("counts", "epochs")

    def __init__(self) -> None:
        self.epochs: defaultdict[int, int] = defaultdict(int)
        self.counts: defaultdict[int, int] = defaultdict(int)
        """One more than the highest seq in that epoch: 0 is nothing."""

    def note(self, shard: int, epoch: int, seq: int) -> None:
        """This entry of the outbox exists."""
        if epoch > self.epochs[shard]:
            self.epochs[shard], self.counts[shard] = epoch, seq + 1
        elif epoch == self.epochs[shard] and seq >= self.counts[shard]:
            self.counts[shard] = seq + 1

    def place(self, shard: int) -> Place:
        """The highest entry known; seq −1 is none."""
        return Place(self.epochs[shard], self.counts[shard] - 1)
