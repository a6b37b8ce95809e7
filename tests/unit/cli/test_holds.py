"""`creditgate holds`, on requests that run at a real gate."""

import asyncio
import time

import httpx
import redis.asyncio

from gateway.ledger.codec.reservation_records import Ended, Reservation
from gateway.operations.holds import release_by_hand
from tests.support.bank import Bank
from tests.support.gate import Gate

from .desk import Desk

SLOW_STREAM = "hi\nsim: tokens=40 itl_ms=50"


async def begin_stream(gate: Gate) -> tuple[asyncio.Task[httpx.Response], str]:
    """A stream of 40 tokens in about two seconds, and the id of its request once it holds."""
    running = asyncio.create_task(gate.chat(SLOW_STREAM, stream=True))
    deadline = time.monotonic() + 10
    while not (holds := await gate.store.holds.open_holds("acme")):
        assert time.monotonic() < deadline, "no hold appeared"
        await asyncio.sleep(0.01)
    return running, holds[0].reservation_id


async def test_list_shows_what_runs_and_for_whom(gate: Gate, desk: Desk) -> None:
    running, request_id = await begin_stream(gate)
    [hold] = await desk.ask("holds", "list")
    assert (hold["reservation_id"], hold["customer_id"]) == (request_id, "acme")
    assert (hold["key_id"], hold["model"]) == ("k_acme", "small")
    assert hold["held"] == (await desk.ask("wallet", "show", "acme"))["held"] != "0"
    assert hold["estimate"]["output"] == 4096
    assert await desk.ask("holds", "list", "broke") == []
    assert request_id in (await desk.run("holds", "list")).out
    await running
    await gate.settle_all()
    assert await desk.ask("holds", "list") == []


async def test_a_released_hold_gives_all_back_and_its_request_is_charged_in_full_later(
    gate: Gate, desk: Desk
) -> None:
    running, request_id = await begin_stream(gate)
    held = (await desk.ask("wallet", "show", "acme"))["held"]
    released = await desk.ask("holds", "release", request_id)
    assert released == {
        "reservation_id": request_id,
        "outcome": "expired",
        "charged": "0",
        "given_back": held,
    }
    shown = await desk.ask("wallet", "show", "acme")
    assert (shown["held"], shown["balance"]) == ("0", "10")
    answer = await running
    assert answer.text.rstrip().endswith("data: [DONE]"), "the answer was not stopped"
    await gate.settle_all()
    expired, late = await gate.events()
    assert (expired.kind, expired.amount_nano) == ("expire", 0)
    assert (late.kind, late.usage["output"]) == ("settle_late", 40)
    assert late.amount_nano == late.usage["input"] * 1000 + 40 * 4000
    assert await gate.settled_nano() == late.amount_nano
    assert (await desk.ask("verify"))["clean"]


async def test_releasing_again_changes_nothing_and_says_how_it_ended(
    gate: Gate, desk: Desk
) -> None:
    running, request_id = await begin_stream(gate)
    said = await desk.run("holds", "release", request_id)
    assert "Returned" in said.out
    assert "charged when it settles" in said.out
    again = await desk.run("holds", "release", request_id)
    assert again.code == 0
    assert f"{request_id} holds nothing: expired, charged 0 credits." in again.out
    await running
    await gate.settle_all()
    late = await desk.ask("holds", "release", request_id)
    assert (late["outcome"], late["given_back"]) == ("settled_late", "0")
    assert len(await gate.events()) == 2


async def test_a_request_that_nobody_knows_is_told_so(gate: Gate, desk: Desk) -> None:
    err = await desk.refused("holds", "release", "req-of-yesterday")
    assert "the ledger has no request req-of-yesterday" in err


async def test_holds_of_an_unknown_customer_are_told_with_the_nearest_name(
    gate: Gate, desk: Desk
) -> None:
    err = await desk.refused("holds", "list", "acne")
    assert err == "there is no customer acne. Did you mean 'acme'?"


async def test_a_worker_that_extends_meanwhile_does_not_keep_the_hold(
    valkey: redis.asyncio.Redis,
) -> None:
    bank = Bank(valkey)
    account = await bank.open("acme")
    await bank.reserve("acme", "r1")
    found = await bank.audit.find_reservation("r1")
    assert found is not None
    shard, as_read = found
    assert isinstance(as_read, Reservation)
    for extend_no in (1, 2, 3):  # and its estimate grows
        usage = {"input": 10, "output": 1000 + 100 * extend_no}
        await bank.ledger.extend(
            account,
            "r1",
            extend_no=extend_no,
            estimate=bank.prices.vector(usage),
            checkpoint=bank.prices.vector({"input": 10, "output": 50}),
            tokens=sum(usage.values()),
            ttl_ms=60_000,
        )
    ended = await release_by_hand(bank.ledger.reservations, shard, "r1", as_read)
    assert ended is not None
    assert (ended.outcome, ended.charged_nano) == ("expired", 0)
    wallet = (await bank.accounts.wallets.read(["acme"]))["acme"]
    assert (wallet.held_nano, wallet.open_reservations) == (0, 0)


async def test_a_hold_that_settles_meanwhile_stays_settled(valkey: redis.asyncio.Redis) -> None:
    bank = Bank(valkey)
    await bank.open("acme")
    hold = await bank.reserve("acme", "r1")
    found = await bank.audit.find_reservation("r1")
    assert found is not None
    shard, as_read = found
    assert isinstance(as_read, Reservation)
    settled = await bank.settle("acme", hold)
    ended = await release_by_hand(bank.ledger.reservations, shard, "r1", as_read)
    assert ended is not None
    assert (ended.outcome, ended.charged_nano) == ("settled", settled.charged_nano)
    record = await bank.accounts.holds.reservation("acme", "r1")
    assert isinstance(record, Ended)
    assert record.outcome == "settled"
