"""`wallet freeze --kill` and `key revoke --kill`, against a gate in which answers run."""

import asyncio
from typing import Any

import httpx

from tests.support.gate import KEY, Gate
from tests.support.until import until

from .desk import Desk


def stream(gate: Gate, key: str) -> "asyncio.Task[httpx.Response]":
    """An answer that would run for minutes."""
    body: dict[str, Any] = {
        "model": "small",
        "stream": True,
        "messages": [{"role": "user", "content": "hi\nsim: tokens=60000 itl_ms=5"}],
    }
    headers = {**gate.headers, "authorization": f"Bearer {key}"}
    return asyncio.create_task(gate.client.post("/v1/chat/completions", json=body, headers=headers))


async def running(gate: Gate, count: int) -> None:
    """Until so many stream."""
    live = gate.service.live
    await until(lambda: sum(run.facts.counted_output > 0 for run in live) == count)


async def test_a_freeze_that_kills_cuts_what_runs(gate: Gate, desk: Desk) -> None:
    answer = stream(gate, KEY)
    await running(gate, 1)
    said = await desk.run("wallet", "freeze", "acme", "--kill", "--reason", "abuse")
    assert (said.code, said.out) == (
        0,
        "Wallet acme is frozen and its running requests are cancelled.",
    )
    assert '"reason":"wallet_killed"' in (await asyncio.wait_for(answer, 30)).text
    assert (await gate.chat("hi")).status_code == 402
    shown = await desk.ask("wallet", "show", "acme")
    assert (shown["status"], shown["held"]) == ("killed", "0")
    again = await desk.run("wallet", "freeze", "acme", "--kill")
    assert "already frozen" in again.out
    assert "is active" in (await desk.run("wallet", "thaw", "acme")).out
    assert (await gate.chat("hi\nsim: tokens=3")).status_code == 200


async def test_who_is_frozen_can_be_killed_and_who_is_killed_frozen(gate: Gate, desk: Desk) -> None:
    answer = stream(gate, KEY)
    await running(gate, 1)
    assert "is frozen: " in (await desk.run("wallet", "freeze", "acme")).out
    assert not answer.done()
    assert "cancelled" in (await desk.run("wallet", "freeze", "acme", "--kill")).out
    await asyncio.wait_for(answer, 30)
    assert "is frozen: " in (await desk.run("wallet", "freeze", "acme")).out


async def test_a_key_that_is_revoked_with_a_kill_takes_its_answers_with_it(
    gate: Gate, desk: Desk
) -> None:
    made = await desk.ask("key", "create", "acme")
    answers = [stream(gate, KEY), stream(gate, made["key"])]
    await running(gate, 2)
    await desk.ask("key", "revoke", made["key_id"], "--kill")
    assert '"reason":"key_revoked"' in (await asyncio.wait_for(answers[1], 30)).text
    assert not answers[0].done(), "the customer's other key goes on"
    await desk.run("wallet", "freeze", "acme", "--kill")
    await asyncio.wait_for(answers[0], 30)
