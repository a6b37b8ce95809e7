import asyncio
from contextlib import suppress

from gateway.app.tasks import end_tasks


async def test_a_task_that_swallows_a_cancellation_ends_all_the_same() -> None:
    cancelled = 0

    async def deaf() -> None:
        nonlocal cancelled
        for _ in range(2):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
            cancelled += 1
        await asyncio.sleep(3600)

    tasks = [asyncio.create_task(deaf()), asyncio.create_task(asyncio.sleep(3600))]
    await asyncio.sleep(0)
    await asyncio.wait_for(end_tasks(tasks), 30)
    assert all(task.cancelled() for task in tasks)
    assert cancelled == 2


async def test_no_tasks_end_at_once() -> None:
    await asyncio.wait_for(end_tasks([]), 30)
