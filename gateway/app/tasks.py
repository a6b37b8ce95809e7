"""Ending tasks that run until they are cancelled."""

import asyncio
from collections.abc import Iterable
from typing import Final

CANCEL_AGAIN_S: Final = 0.2
"""For a task to end, before it is cancelled again."""


async def end_tasks(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel until all have ended. Once may not do: Python 3.11's `asyncio.wait_for`, on which
    redis-py sends, loses a cancellation that comes with its result (cpython issue 86296)."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
