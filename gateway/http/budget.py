"""One budget of bytes for everything that a worker buffers: request bodies, unread responses.

Server and client charge what they keep and release it when it has left. A charge that would exceed
the total, or the share of its owner, is refused and changes nothing: the caller then keeps nothing.
Buffers that are small and bounded in number (`UNCHARGED_BYTES` a connection) are not charged.
"""

from typing import Final

UNCHARGED_BYTES: Final = 16 * 1024
"""Up to this much of one message costs no charge: the number of connections bounds it."""
TIGHT_PART: Final = 0.875


class ByteBudget:
    """Bytes that may be buffered at a time.

    total_bytes:  of all owners together
    share_bytes:  of one owner (a customer or a key); "" is everybody whose owner is not known yet,
                  and has no share
    """

    __slots__ = ("_held_by", "_share_bytes", "_tight_bytes", "_total_bytes", "held_bytes")

    def __init__(self, total_bytes: int, share_bytes: int | None = None) -> None:
        self._total_bytes = total_bytes
        self._share_bytes = total_bytes if share_bytes is None else share_bytes
        self._tight_bytes = int(total_bytes * TIGHT_PART)
        self._held_by: dict[str, int] = {}
        self.held_bytes = 0

    def __repr__(self) -> str:
        return f"<ByteBudget: {self.held_bytes} of {self._total_bytes} bytes>"

    @property
    def tight(self) -> bool:
        """Whether so little is left that new bodies will hardly find room."""
        return self.held_bytes >= self._tight_bytes

    def has_room(self, size: int) -> bool:
        """Return whether the total leaves room for size bytes."""
        return self.held_bytes + size <= self._total_bytes

    def held_by(self, owner: str) -> int:
        """Return the bytes charged to one owner."""
        return self._held_by.get(owner, 0)

    def charge(self, owner: str, size: int) -> bool:
        """Charge size bytes; False, and nothing is charged, when they exceed the total or a share."""
        held = self._held_by.get(owner, 0) + size
        if not self.has_room(size) or (owner and held > self._share_bytes):
            return False
        self.held_bytes += size
        self._held_by[owner] = held
        return True

    def release(self, owner: str, size: int) -> None:
        """Give back size bytes that were charged to this owner."""
        left = self._held_by.get(owner, 0) - size
        assert left >= 0, "released more than was charged"
        self.held_bytes -= size
        if left:
            self._held_by[owner] = left
        else:
            self._held_by.pop(owner, None)


class Charge:
    """What one connection has charged to a budget, under one owner."""

    __slots__ = ("_budget", "_owner", "size")

    def __init__(self, budget: ByteBudget, owner: str = "") -> None:
        self._budget = budget
        self._owner = owner
        self.size = 0

    def add(self, size: int) -> bool:
        """Charge more; False when the budget refuses."""
        if not self._budget.charge(self._owner, size):
            return False
        self.size += size
        return True

    def drop(self, size: int) -> None:
        """Release a part."""
        self._budget.release(self._owner, size)
        self.size -= size

    def clear(self) -> None:
        """Release everything. Idempotent."""
        self.drop(self.size)

    def move(self, owner: str) -> bool:
        """Charge everything to another owner; False, and nothing stays charged, if its share is less."""
        if owner == self._owner:
            return True
        size = self.size
        self.clear()
        self._owner = owner
        return self.add(size)
