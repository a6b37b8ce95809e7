"""Waiting for something to become true."""

import asyncio
from collections.abc import Awaitable, Callable


async def until(true: Callable[[], Awaitable[object] | object], within_s: float = 10) -> None:
    """Ask again and again until the answer is true; fails after a while."""
    async with asyncio.timeout(within_s):
        while True:
            answer = true()
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.005)
