"""`creditgate refund`, `adjust`, `wallet void|freeze|thaw`, as a user types them, on a real ledger
beside a running gate."""

from typing import Any

import msgpack
import pytest

from gateway.domain.events import Event
from gateway.exporter.main import Exporter
from gateway.ledger.identities import check_identities
from tests.support.gate import SHARDS, Gate
from tests.support.loose_ledger import LooseLedger
from tests.support.stores import events_path, sqlite_sink

from .desk import Desk


async def export(gate: Gate) -> None:
    """Take what waits in the outbox to the store."""
    await gate.settle_all()
    operator = LooseLedger(gate.runner, shard_count=SHARDS)
    exporter = Exporter(gate.outbox, operator, sqlite_sink(events_path(gate.settings)))
    exporter.begin()
    await exporter.drain(10)


async def spend(gate: Gate) -> Event:
    """A request that costs 20 output tokens and what it took in, and its event in the store."""
    answer = await gate.chat("hi\nsim: input=10 tokens=20", max_tokens=20)
    assert answer.status_code == 200
    await gate.settle_all()
    event = (await gate.events())[-1]
    assert event.amount_nano == 10 * 1000 + 20 * 4000
    await export(gate)
    return event


async def balance(desk: Desk, customer: str = "acme") -> Any:
    return (await desk.ask("wallet", "show", customer))["balance"]


async def clean(gate: Gate) -> bool:
    return await check_identities(gate.store, gate.store._client) == []


# refund


async def test_a_refund_gives_a_part_back_then_the_rest_and_no_more(gate: Gate, desk: Desk) -> None:
    event = await spend(gate)
    words = ("refund", event.event_id, "--reason", "slow answer")
    said = await desk.run(*words, "--amount", "0.00003", "--key", "case-1")
    assert said.code == 0
    assert "Refunded acme 0.00003 credits. left to refund 0.00006, balance 9.99994" in said.out
    made = await desk.ask(*words)
    assert (made["amount"], made["left"], made["balance"]) == ("0.00006", "0", "10")
    assert (made["customer_id"], made["event_id"]) == ("acme", event.event_id)
    assert await desk.refused(*words) == f"nothing is left to refund of {event.event_id}"
    assert await balance(desk) == "10"
    assert await clean(gate)


async def test_one_key_refunds_once_and_no_other_amount(gate: Gate, desk: Desk) -> None:
    event = await spend(gate)
    words = ("refund", event.event_id, "--reason", "x", "--key", "case-1")
    await desk.ask(*words, "--amount", "0.00003")
    again = await desk.ask(*words)  # without an amount: what this key refunded
    assert (again["amount"], again["replayed"], again["balance"]) == ("0.00003", True, "9.99994")
    said = await desk.run(*words)
    assert "The key case-1 was used for this before: nothing was changed." in said.out
    err = await desk.refused(*words, "--amount", "0.00004")
    assert err.startswith(f"the key case-1 was used to refund another amount of {event.event_id}")
    assert await balance(desk) == "9.99994"


async def test_more_than_the_charge_is_refused_with_what_is_left(gate: Gate, desk: Desk) -> None:
    event = await spend(gate)
    words = ("refund", event.event_id, "--reason", "x", "--amount")
    err = await desk.refused(*words, "0.00009001")
    assert err == f"0.00009 credits are left to refund of {event.event_id}"
    await desk.ask(*words, "0.00008")
    err = await desk.refused(*words, "0.00002")
    assert err == f"0.00001 credits are left to refund of {event.event_id}"


async def test_what_cannot_be_refunded_is_told(gate: Gate, desk: Desk) -> None:
    err = await desk.refused("refund", "r9:settled", "--reason", "x")
    assert err.startswith("there is no event r9:settled in the store")
    await export(gate)
    err = await desk.refused("refund", "start:acme:start", "--reason", "x")
    assert err == "start:acme:start charged nothing: it is a grant"
    for wrong in ("0", "-1", "1e3", "0.0000000001", "many"):
        said = await desk.run("refund", "r9:settled", "--reason", "x", f"--amount={wrong}")
        assert (said.code, said.out) == (2, ""), wrong
    assert (await desk.run("refund", "r9:settled")).code == 2, "a reason is asked for"


async def test_why_shows_the_refunds_of_a_request(gate: Gate, desk: Desk) -> None:
    event = await spend(gate)
    request_id = event.facts["request_id"]
    await desk.ask("refund", event.event_id, "--reason", "slow answer", "--amount", "0.00003")
    await export(gate)
    story = await desk.ask("why", request_id)
    assert [each["kind"] for each in story["events"]] == ["settle", "adjust"]
    assert story["charged"] == "0.00006"
    assert story["events"][1]["corrects"] == event.event_id
    said = await desk.run("why", request_id)
    assert "refunded: 0.00003 credits" in said.out
    assert "reason slow answer" in said.out


# adjust


async def test_credit_is_given_and_taken_by_hand(gate: Gate, desk: Desk) -> None:
    given = await desk.ask("adjust", "acme", "2.50", "--reason", "goodwill", "--key", "a1")
    assert (given["amount"], given["balance"], given["replayed"]) == ("2.5", "12.5", False)
    said = await desk.run("adjust", "acme", "-3", "--reason", "booked twice")
    assert "Adjusted acme by -3 credits. balance 9.5" in said.out
    assert "--key cli-" in said.err
    assert (await desk.ask("wallet", "show", "acme"))["adjusted"] == "-0.5"
    assert await clean(gate)


async def test_what_is_taken_beyond_the_grants_is_owed(gate: Gate, desk: Desk) -> None:
    taken = await desk.ask("adjust", "broke", "-1.25", "--reason", "x", "--event", "r1:settled")
    assert (taken["balance"], taken["event"]) == ("-1.25", "r1:settled")
    assert (await desk.ask("wallet", "show", "broke"))["overdraft"] == "1.25"
    assert await clean(gate)


async def test_one_key_adjusts_once_and_by_no_other_amount(gate: Gate, desk: Desk) -> None:
    words = ("--reason", "x", "--key", "a1")
    await desk.ask("adjust", "acme", "2.50", *words)
    again = await desk.run("adjust", "acme", "2.50", *words)
    assert "The key a1 was used for this before: nothing was changed. balance 12.5" in again.out
    err = await desk.refused("adjust", "acme", "-2.50", *words)
    assert err.startswith("the key a1 was used for another adjustment of acme")
    assert await balance(desk) == "12.5"


async def test_what_is_no_adjustment_is_refused(gate: Gate, desk: Desk) -> None:
    for wrong in ("0", "-0", "+-1", "NaN", "9000001"):
        said = await desk.run("adjust", "acme", "--reason", "x", "--", wrong)
        assert (said.code, said.out) == (2, ""), wrong
    err = await desk.refused("adjust", "acmee", "1", "--reason", "x")
    assert err == "there is no customer acmee. Did you mean 'acme'?"
    assert (await desk.run("adjust", "acme", "1")).code == 2, "a reason is asked for"
    assert await balance(desk) == "10"


# void


async def test_a_grant_is_voided_once_and_shown_so(gate: Gate, desk: Desk) -> None:
    said = await desk.run("wallet", "void", "acme", "1", "--reason", "chargeback")
    assert "Voided grant 1 of acme: 10 credits. balance 0" in said.out
    again = await desk.run("wallet", "void", "acme", "1", "--reason", "chargeback")
    assert (again.code, again.out) == (
        0,
        "Grant 1 was voided before: nothing was changed. balance 0",
    )
    shown = await desk.ask("wallet", "show", "acme")
    assert (shown["voided"], shown["expired"], shown["balance"]) == ("10", "0", "0")
    assert [(grant["grant"], grant["status"]) for grant in shown["grants"]] == [(1, "voided")]
    assert (await gate.chat()).status_code == 402
    assert await clean(gate)


async def test_what_a_running_request_holds_of_a_voided_grant_it_may_spend(
    gate: Gate, desk: Desk
) -> None:
    async with gate.client.stream(
        "POST",
        "/v1/chat/completions",
        json={
            "model": "small",
            "stream": True,
            "max_tokens": 20,
            "messages": [{"role": "user", "content": "hi\nsim: input=10 tokens=20 itl_ms=150"}],
        },
        headers=gate.headers,
    ) as running:
        voided = await desk.ask("wallet", "void", "acme", "1", "--reason", "chargeback")
        assert voided["held"] != "0"
        assert float(voided["voided"]) + float(voided["held"]) == pytest.approx(10)
        await running.aread()
    await gate.settle_all()
    assert await gate.settled_nano() == 90_000
    assert await balance(desk) == "0", "what it gave back is gone"
    assert await clean(gate)


async def test_what_cannot_be_voided_is_told(gate: Gate, desk: Desk) -> None:
    err = await desk.refused("wallet", "void", "acme", "7", "--reason", "x")
    assert err == "acme has no grant 7 with anything left in it that is not held"
    for wrong in ("0", "-1", "first"):
        said = await desk.run("wallet", "void", "acme", "--reason", "x", "--", wrong)
        assert (said.code, said.out) == (2, ""), wrong
    assert (await desk.run("wallet", "void", "acme", "1")).code == 2, "a reason is asked for"
    err = await desk.refused("wallet", "void", "acmee", "1", "--reason", "x")
    assert err == "there is no customer acmee. Did you mean 'acme'?"
    assert await balance(desk) == "10"


# freeze


async def test_a_frozen_wallet_admits_nothing_until_it_is_thawed(gate: Gate, desk: Desk) -> None:
    assert (
        await desk.run("wallet", "freeze", "acme", "--reason", "fraud?")
    ).out == "Wallet acme is frozen: nothing new is admitted."
    refused = await gate.chat()
    assert refused.status_code == 402
    assert refused.json()["error"]["metadata"]["reason"] == "wallet_frozen"
    assert (await desk.ask("wallet", "show", "acme"))["status"] == "frozen"
    again = await desk.run("wallet", "freeze", "acme")
    assert (again.code, again.out) == (0, "Wallet acme is already frozen: nothing new is admitted.")
    said = await desk.run("wallet", "thaw", "acme")
    assert said.out == "Wallet acme is active: it admits requests."
    said = await desk.run("wallet", "thaw", "acme")
    assert said.out == "Wallet acme is already active: it admits requests."
    assert (await gate.chat("hi\nsim: tokens=1", max_tokens=2)).status_code == 200
    err = await desk.refused("wallet", "freeze", "acmee")
    assert err == "there is no customer acmee. Did you mean 'acme'?"


async def test_the_reason_of_a_freeze_is_on_record(gate: Gate, desk: Desk) -> None:
    await desk.run("wallet", "freeze", "acme", "--reason", "chargeback 7")
    stamps = [
        msgpack.unpackb(fields[b"f"])
        for shard in range(SHARDS)
        for _, fields in await gate.store._client.xrange(f"{{cg:{shard}}}:out")
    ]
    assert [facts["reason"] for facts in stamps if facts.get("reason") == "chargeback 7"]
