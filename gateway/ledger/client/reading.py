"""Many keys read in one round trip, through redis-py."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

from redis.exceptions import RedisError

from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import as_unavailable, is_away, unavailable

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


async def get_reached(client: Any, keys: Sequence[bytes]) -> list[bytes | LedgerUnavailable | None]:
    """GET of each, with LedgerUnavailable for those whose node of a cluster is away.

    Raises LedgerUnavailable when that is all.
    """
    async with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.get(key)
        return await execute_reached(pipe)


async def execute_reached(pipe: Any) -> list[Any]:
    """Execute a pipeline; LedgerUnavailable takes the place of each reply of a node that is away.

    Raises LedgerUnavailable when no node has replied, and for an error of any other kind.
    """
    with unavailable():
        replies = await pipe.execute(raise_on_error=False)
    for place, reply in enumerate(replies):
        if isinstance(reply, RedisError | OSError):
            replies[place] = as_unavailable(reply)
            if not is_away(reply):
                raise replies[place] from reply
    if replies and all(isinstance(reply, LedgerUnavailable) for reply in replies):
        raise replies[0]
    return list(replies)
