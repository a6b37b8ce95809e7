"""Many keys read in one round trip, through redis-py."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

from gateway.ledger.client.faults import unavailable

T = TypeVar("T")

PAGE: Final = 1000
"""Records that one round trip reads at most."""


def pages(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """The items in runs of at most `PAGE`."""
    for start in range(0, len(items), PAGE):
        yield items[start : start + PAGE]


async def get_each(client: Any, keys: Sequence[bytes]) -> list[bytes | None]:
    """GET of each. Not MGET: the keys may lie in different slots. Raises LedgerUnavailable."""
    async with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.get(key)
        with unavailable():
            values: list[bytes | None] = await pipe.execute()
    return values
