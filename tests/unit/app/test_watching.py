"""What the supervisor does when a shard is open again, or a part of the ledger is back."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from gateway.app import watching
from gateway.app.parts import Current, LedgerState, Parts
from gateway.app.roles import CannotServe
from gateway.app.tasks import end_tasks
from gateway.app.watching import LedgerWatch, keep_writing
from gateway.telemetry.metrics import Counter
from tests.support.until import until


class Scripted:
    """A ledger that shows one state after the other, then the last one."""

    def __init__(self, states: Sequence[LedgerState]) -> None:
        self.looks = 0
        self._states: Iterator[LedgerState] = iter(states[:-1])
        self._last = states[-1]

    async def look(self) -> LedgerState:
        self.looks += 1
        return next(self._states, self._last)

    async def revive(self) -> bool:
        return False


async def written(
    monkeypatch: pytest.MonkeyPatch, states: Sequence[LedgerState], refusals: Sequence[str] = ()
) -> list[str]:
    """What was written, by when the ledger has been looked at some times more: "ok" or why not."""
    monkeypatch.setattr(watching, "LOOK_EVERY_S", 0.001)
    ledger, done, left = Scripted(states), [], list(refusals)

    async def write(settings: Any, url: str) -> None:
        assert (settings, url) == ("settings", "redis://here")
        done.append(left[0] if left else "ok")
        if left:
            raise CannotServe(left.pop(0))

    async def ask(settings: Any, url: str) -> None: ...

    parts = Parts(Path(), (), cast(Any, ledger), lambda: None, cast(Any, None), ask, write)
    watch = LedgerWatch(parts, Current("settings", cast(Any, None), "redis://here"), Counter())
    await watch.look()
    task = asyncio.create_task(watch.run())
    await until(lambda: ledger.looks > len(states) + 5)
    await end_tasks([task])
    return done


FROZEN = LedgerState(frozen=(3, 5))
HALF = LedgerState(frozen=(5,))
OPEN = LedgerState()
AWAY = LedgerState("ledger_unreachable")


async def test_the_configured_customers_are_written_when_a_shard_is_open_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await written(monkeypatch, [FROZEN, FROZEN, HALF, AWAY, OPEN]) == ["ok", "ok"]


async def test_they_are_not_written_while_nothing_was_frozen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await written(monkeypatch, [OPEN, AWAY, OPEN]) == []


async def test_customers_that_could_not_be_written_are_written_later_and_logged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with capture_logs() as logs:
        done = await written(monkeypatch, [FROZEN, OPEN], ["no", "no"])
    assert done == ["no", "no", "ok"]
    assert [line["event"] for line in logs] == ["customers_not_written"]


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
