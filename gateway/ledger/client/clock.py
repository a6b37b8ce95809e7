"""The ledger's clock, read through redis-py."""

from typing import Any

from gateway.ledger.client.faults import unavailable


def clock_ms(reply: tuple[int, int]) -> int:
    """Unix ms of a reply to TIME: seconds and microseconds."""
    seconds, microseconds = reply
    return int(seconds) * 1000 + int(microseconds) // 1000


async def now_ms(client: Any) -> int:
    """The time by the ledger's clock, in Unix ms. Raises LedgerUnavailable."""
    with unavailable():
        reply = await client.time()
    return clock_ms(reply)
