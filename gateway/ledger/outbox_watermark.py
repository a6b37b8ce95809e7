"""How far this process knows each shard's outbox to be, so that a shard that lost a tail is noticed."""

from collections import defaultdict
from collections.abc import Callable, Mapping

from gateway.domain.delivery import Place

_NOTHING = (0, 0)


class OutboxWatermark:
    """The highest entry of each shard's outbox that this process knows of: from replies, and from what
    the store has acknowledged.

    Every script call carries it; a shard that has less answers `went_back`. All ledgers of one
    process share one.
    """

    __slots__ = ("marks", "on_went_back")

    def __init__(self, stored: Mapping[int, Place] | None = None) -> None:
        """stored: how far the store has each shard. Without it a process cannot tell a shard that has
        lost its tail from an intact one."""
        self.on_went_back: Callable[[int], None] | None = None
        """Called with a shard that has answered `went_back`."""
        self.marks: defaultdict[int, tuple[int, int]] = defaultdict(lambda: _NOTHING)
        """Epoch, and one more than the highest seq in it (0: none), by shard."""
        self.note_stored(stored or {})

    def note(self, shard: int, epoch: int, seq: int) -> None:
        """This entry of the outbox exists."""
        mark = (epoch, seq + 1)
        if mark > self.marks[shard]:
            self.marks[shard] = mark

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
        epoch, count = self.marks[shard]
        return Place(epoch, count - 1)
