"""No ending is lost, none is silent: whatever the ledger and the disk do."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis.asyncio
from structlog.testing import capture_logs

from gateway.domain.reservation import Settled
from gateway.flow.refusals import Refused
from gateway.flow.reservation import delivery, live
from gateway.flow.reservation.reservation import Reservation
from gateway.ledger.client.errors import LedgerBug, LedgerUnavailable, TooOld
from gateway.ledger.journal import JournalFull
from tests.flow.desk import Desk
from tests.support.until import until


@pytest.fixture
async def desk(valkey: redis.asyncio.Redis, tmp_path: Path) -> AsyncIterator[Desk]:
    opened = await Desk(valkey, tmp_path).open()
    yield opened
    await opened.delivery.drain(5)
    await opened.journal.close()


async def finished(desk: Desk, **policy: Any) -> Reservation:
    """A run whose answer has come whole, not resolved yet."""
    run = await desk.run(**policy)
    run.progress.stage, run.progress.status = "complete", 200
    run.facts.usage, run.facts.usage_final = {"input": 9, "output": 30}, True
    return run


async def settlement(run: Reservation) -> Settled | None:
    """What has become of the end of this reservation."""
    waiting = run.resolve()
    assert waiting is not None
    return await waiting


def set_aside(desk: Desk) -> list[dict[str, Any]]:
    """The records that the journal keeps for people."""
    path = desk.journal.path.with_suffix(".rejected")
    data, found = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:4], "little")
        found.append(msgpack.unpackb(data[8 : 8 + length]))
        data = data[8 + length :]
    return found


@pytest.mark.parametrize("unknown", [False, True])
async def test_what_the_ledger_does_not_take_waits_in_the_journal_and_lands_once(
    desk: Desk, unknown: bool
) -> None:
    run = await finished(desk)
    desk.wire.faults["settle"] = [LedgerUnavailable("away", unknown=unknown)]
    assert await settlement(run) is None
    assert desk.journal.waiting_records == 1
    assert await desk.held_nano() > 0
    replayed = await desk.delivery.replay_journal()
    assert (replayed.delivered, replayed.left) == (1, 0)
    await desk.end(run)


@pytest.mark.parametrize(
    "refusal", [TooOld("late"), ValueError("settle: too_large"), LedgerBug("odd")]
)
async def test_what_the_ledger_never_takes_is_set_aside_and_logged(
    desk: Desk, refusal: Exception
) -> None:
    run = await finished(desk)
    desk.wire.faults["settle"] = [refusal]
    with capture_logs() as logs:
        assert await run.settled_within(2) is None
    [kept] = set_aside(desk)
    assert kept["reservation_id"] == run.hold.reservation_id
    assert kept["error"].startswith(type(refusal).__name__)
    assert [line["event"] for line in logs] == ["ending_set_aside"]
    assert logs[0]["log_level"] == "error"
    assert desk.set_aside.value == 1
    assert run not in desk.live


async def test_what_cannot_be_set_aside_either_is_logged(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(desk.journal, "set_aside", full)
    run = await finished(desk)
    desk.wire.faults["settle"] = [TooOld("late")]
    with capture_logs() as logs:
        assert await settlement(run) is None
    assert [line["event"] for line in logs] == ["ending_set_aside", "ending_lost"]
    assert logs[1]["reservation_id"] == run.hold.reservation_id


async def test_while_ledger_and_disk_both_refuse_it_is_offered_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise JournalFull("full")

    monkeypatch.setattr(delivery, "OFFER_AGAIN_S", 0.01)
    monkeypatch.setattr(desk.journal, "append", full)
    run = await finished(desk)
    desk.wire.down = True
    with capture_logs() as logs:
        task = run.resolve()
        assert task is not None
        await asyncio.sleep(0.1)
        assert not task.done()
        desk.wire.down = False
        settled = await task
    assert settled is not None
    assert [line["event"] for line in logs] == ["journal_failed"], "said once, not each time"
    await desk.end(run)


async def test_an_ending_that_cannot_be_made_is_logged_and_its_hold_is_left_to_expire(
    desk: Desk,
) -> None:
    run = await finished(desk)
    run.facts.usage = {"input": -1}
    run.facts.input_reported = True
    with capture_logs() as logs:
        assert run.resolve() is None
    assert [line["event"] for line in logs] == ["ending_failed"]
    assert await desk.held_nano() > 0
    assert run not in desk.live


async def test_an_observer_that_fails_does_not_undo_a_settlement(desk: Desk) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    desk.observe = broken
    run = await finished(desk)
    with capture_logs():
        await settlement(run)
    assert (await desk.end(run)).kind == "settle"


@pytest.mark.parametrize("executed", [False, True])
async def test_an_abandoned_reserve_leaves_no_hold_whether_it_was_executed_or_not(
    desk: Desk, executed: bool
) -> None:
    if executed:
        run = await desk.run()
        desk.live.discard(run)
    facts = msgpack.packb({"customer_id": "acme"})
    desk.delivery.abandon(desk.account, "r1", facts, None)
    await desk.delivery.drain(5)
    assert await desk.held_nano() == 0
    kinds = [event.kind for event in await desk.events()]
    assert kinds == (["release"] if executed else [])
    desk._runs = 0
    with pytest.raises(Refused, match="cannot take reservations"):
        await desk.run()  # the reserve that was on its way, arriving late


async def test_an_abandon_waits_in_the_journal_too(desk: Desk) -> None:
    run = await desk.run()
    desk.live.discard(run)
    desk.wire.down = True
    desk.delivery.abandon(desk.account, "r1", msgpack.packb({"customer_id": "acme"}), None)
    await desk.delivery.drain(5)
    desk.wire.down = False
    assert (await desk.delivery.replay_journal()).delivered == 1
    assert await desk.held_nano() == 0


async def test_a_journaled_record_that_is_refused_is_set_aside_and_logged(desk: Desk) -> None:
    run = await finished(desk)
    desk.wire.faults["settle"] = [LedgerUnavailable("away"), TooOld("late")]
    await settlement(run)
    with capture_logs() as logs:
        replayed = await desk.delivery.replay_journal()
    assert (replayed.rejected, replayed.left) == (1, 0)
    assert [line["event"] for line in logs] == ["ending_set_aside"]
    assert logs[0]["reservation_id"] == run.hold.reservation_id


async def test_a_record_of_another_kind_is_set_aside(desk: Desk) -> None:
    await desk.journal.append({"verb": "dance"})
    with capture_logs() as logs:
        assert (await desk.delivery.replay_journal()).rejected == 1
    assert logs[0]["event"] == "ending_set_aside"


async def test_running_holds_are_extended_when_they_are_due_and_no_more(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK_EVERY_S", 0.01)
    often = await desk.run(checkpoint_interval_ms=100)
    seldom = await desk.run(checkpoint_interval_ms=600_000)
    before = {hold.reservation_id: hold for hold in await desk.store.holds.open_holds("acme")}
    beating = asyncio.create_task(desk.live.keep_alive())
    await until(lambda: desk.wire.calls.count("extend") >= 2)
    beating.cancel()
    await desk.delivery.drain(5)
    after = {hold.reservation_id: hold for hold in await desk.store.holds.open_holds("acme")}
    often_id, seldom_id = often.hold.reservation_id, seldom.hold.reservation_id
    assert after[often_id].reservation.deadline_ms > before[often_id].reservation.deadline_ms
    assert after[seldom_id].reservation.extend_no == 0
    for run in (often, seldom):
        run.resolve()
    await desk.delivery.drain(5)
    assert desk.live == set()


async def test_a_drain_that_is_too_short_says_what_it_leaves(desk: Desk) -> None:
    never = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        await never

    desk.delivery.spawn(wait())
    with capture_logs() as logs:
        await desk.delivery.drain(0.01)
    assert logs == [{"event": "endings_not_delivered", "tasks": 1, "log_level": "error"}]
    never.set_result(None)


async def test_an_ending_whose_awaiter_is_cancelled_lands_all_the_same(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await finished(desk)
    asked, work = asyncio.Event(), desk.wire.run

    async def lost(*_: object) -> list[Any]:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(desk.wire, "run", lost)
    waiting = asyncio.create_task(run.settled_within(2))
    await asked.wait()
    monkeypatch.setattr(desk.wire, "run", work)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await settlement(run) is not None
    await desk.end(run)
    assert len(desk.observed) == 1
