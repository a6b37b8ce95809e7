"""What the supervisor does while the gate serves, apart from its processes."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.app import watching
from gateway.app.roles import CannotServe
from gateway.app.watching import keep_writing
from tests.support.until import until


async def test_what_was_left_out_is_tried_again_and_a_refusal_is_logged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "REST_EVERY_S", 0.001)
    calls = 0

    async def write_rest() -> None:
        nonlocal calls
        calls += 1
        if calls in (2, 3, 5):
            raise CannotServe("customers.acme: too many grants")

    parts: Any = SimpleNamespace(write_rest=write_rest)
    with capture_logs() as logs:
        writing = asyncio.create_task(keep_writing(parts))
        await until(lambda: calls >= 6)
        writing.cancel()
    assert [each["event"] for each in logs] == ["accounts_half_written"] * 2


async def test_where_nothing_is_left_out_nothing_is_waited_for() -> None:
    parts: Any = SimpleNamespace(write_rest=None)
    await asyncio.wait_for(keep_writing(parts), 5)
