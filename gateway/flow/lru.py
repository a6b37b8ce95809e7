"""A bounded cache: what was used least recently goes first."""

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Lru(Generic[K, V]):
    """At most `most` values by name."""

    __slots__ = ("_kept", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, name: K) -> V | None:
        """The value, which counts as used; None when there is none."""
        value = self._kept.get(name)
        if value is not None:
            self._kept.move_to_end(name)
        return value

    def put(self, name: K, value: V) -> None:
        """Keep a value in place of an earlier one of the name."""
        self._kept[name] = value
        self._kept.move_to_end(name)
        if len(self._kept) > self.most:
            self._kept.popitem(last=False)

    def pop(self, name: K) -> V | None:
        """Drop a value; None when there was none."""
        return self._kept.pop(name, None)
