"""Shadow mode through a complete gate: it decides and charges a shadow wallet, and lets everything run."""

import asyncio
from typing import Any

import pytest

from gateway.domain.customers import wallet_id
from gateway.domain.modes import SetMode
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.refusals import RefusedRequest, read_refusal
from gateway.ledger.identities import check_identities
from tests.support.gate import BROKE_KEY, KEY, Gate, Serve, digest
from tests.support.until import until
from tests.support.upstreams import Sim

CREDIT = 1_000_000_000
SHADOW = wallet_id("acme", "shadow")
QUICK = "hi\nsim: tokens=3"
GATES_OWN = ("x-credits", "x-ratelimit", "retry-after", "x-should-retry")


def customers(**acme: Any) -> dict[str, Any]:
    """A customer with a little credit, and one with none."""
    rich = {
        "grants": [{"name": "start", "amount": "1.00", "category": "paid"}],
        "keys": [{"id": "k_acme", "sha256": digest(KEY)}],
    }
    broke = {"keys": [{"id": "k_broke", "sha256": digest(BROKE_KEY)}]}
    return {"acme": {**rich, **acme}, "broke": broke}


def shown(headers: Any) -> list[str]:
    """Headers by which a client could notice the gate's credit and limits."""
    return [name for name in headers if name.startswith(GATES_OWN)]


async def refusals(gate: Gate) -> list[RefusedRequest]:
    """What was noted, of customers in shadow mode and of others."""
    await gate.service.ledger.refusals.flush()
    found = await gate.store._client.xrange("{cg}:refusals")
    return [read_refusal(fields[b"r"]) for _, fields in found]


async def clean(gate: Gate) -> None:
    """Nothing is held, and every identity of every wallet is true."""
    await gate.settle_all()
    assert await check_identities(gate.store, gate.store._client) == []


async def test_charges_the_shadow_wallet_and_leaves_the_live_one_alone(serve: Serve) -> None:
    async with serve(mode="shadow", customers=customers()) as gate:
        answer = await gate.chat(QUICK)
        assert answer.status_code == 200
        assert shown(answer.headers) == []
        assert "x-request-id" in answer.headers
        event = await gate.one_event(SHADOW)
        assert (event.kind, event.facts["mode"], event.facts["livemode"]) == (
            "settle",
            "shadow",
            True,
        )
        assert event.amount_nano > 0
        assert event.facts["flags"] == []
        wallets = await gate.store.wallets.read(["acme", SHADOW])
        assert wallets["acme"].settled_nano == 0
        assert wallets["acme"].balance_nano(1) == CREDIT
        assert wallets[SHADOW].balance_nano(1) == CREDIT - event.amount_nano
        assert await gate.events("acme") == []
        assert await refusals(gate) == []
        await clean(gate)


async def test_what_cannot_be_paid_runs_and_is_noted_and_charged(serve: Serve, sim: Sim) -> None:
    async with serve(mode="shadow", customers=customers()) as gate:
        gate.headers["authorization"] = f"Bearer {BROKE_KEY}"
        answer = await gate.chat("hi\nsim: tokens=30", max_tokens=100)
        assert answer.status_code == 200
        assert shown(answer.headers) == []
        event = await gate.one_event(wallet_id("broke", "shadow"))
        assert event.kind == "settle"
        assert event.usage["output"] == 30
        assert event.estimated_amount_nano == 0
        assert event.facts["flags"] == ["would_deny", "insufficient_credits"]
        wallet = (await gate.store.wallets.read([event.customer_id]))[event.customer_id]
        assert wallet.overdraft_nano == event.amount_nano > 0
        [noted] = await refusals(gate)
        assert (noted.mode, noted.reason, noted.customer_id) == (
            "shadow",
            "insufficient_credits",
            "broke",
        )
        assert noted.status == 402
        assert (noted.estimate_nano or 0) > 0
        assert noted.available_nano == 0
        assert noted.request_id == event.facts["request_id"]
        assert sim.provider.served.posts == 1
        await clean(gate)


@pytest.mark.parametrize("measure", ["requests", "concurrent", "tokens", "spend"])
async def test_no_limit_stops_a_request(serve: Serve, measure: str) -> None:
    ceiling = {"requests": "1", "concurrent": "0", "tokens": "60", "spend": "0.00010"}[measure]
    limit = {"measure": measure, "ceiling": ceiling, "scope": "key"}
    if measure != "concurrent":
        limit["window"] = "month"
    async with serve(mode="shadow", customers=customers(limits=[limit])) as gate:
        for _ in range(3):
            answer = await gate.chat(QUICK, max_tokens=20)
            assert answer.status_code == 200
            assert shown(answer.headers) == []
            await gate.settle_all()
        assert len(await gate.events(SHADOW)) == 3
        noted = await refusals(gate)
        assert noted
        assert {str(each.limit).split(" (")[0] for each in noted} == {"key k_acme"}
        await clean(gate)


async def test_a_stream_is_never_cut(serve: Serve) -> None:
    little = customers(grants=[{"name": "start", "amount": "0.0005"}])
    policy = {"preset": "strict", "hold_output_tokens": 16, "exhausted_stream": "cut"}
    async with serve(mode="shadow", customers=little, policy=policy) as gate:
        answer = await gate.chat("hi\nsim: tokens=400 itl_ms=2", stream=True, max_tokens=500)
        assert answer.status_code == 200
        assert "error" not in answer.text
        assert answer.text.rstrip().endswith("[DONE]")
        event = await gate.one_event(SHADOW)
        assert event.usage["output"] == 400
        assert event.facts["flags"] == ["credit_exhausted"]
        await clean(gate)


async def test_neither_a_freeze_of_the_shadow_wallet_nor_a_request_that_has_no_bound_stops_it(
    serve: Serve,
) -> None:
    async with serve(mode="shadow", customers=customers()) as gate:
        await gate.chat(QUICK)
        await gate.settle_all()
        wallet = (await gate.store.wallets.read([SHADOW]))[SHADOW]
        await gate.ledger.account(SHADOW, account_rev=wallet.account_rev + 1, frozen=True)
        frozen = await gate.chat(QUICK)
        unbounded = await gate.chat(QUICK, max_tokens=1_000_000)
        assert (frozen.status_code, unbounded.status_code) == (200, 200)
        await gate.settle_all()
        assert [event.kind for event in await gate.events(SHADOW)] == ["settle"] * 3
        assert [each.reason for each in await refusals(gate)] == ["wallet_frozen", "bad_request"]
        await clean(gate)


async def test_a_model_that_the_key_may_not_use_is_noted(serve: Serve) -> None:
    async with serve(mode="shadow", customers=customers(models=["dear"])) as gate:
        assert (await gate.chat(QUICK)).status_code == 200
        assert (await gate.chat(QUICK, model="unknown")).status_code == 404
        [noted, unknown] = await refusals(gate)
        assert (noted.reason, noted.mode) == ("forbidden_model", "shadow")
        assert (unknown.reason, unknown.mode) == ("unknown_model", "enforce")
        assert (await gate.one_event(SHADOW)).facts["flags"] == ["would_deny", noted.reason]


async def test_runs_while_the_ledger_is_away(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(mode="shadow", customers=customers()) as gate:
        await gate.chat(QUICK)
        await gate.settle_all()

        async def away(*_: object) -> None:
            raise LedgerUnavailable("away for this test", unknown=False)

        runner = gate.service.ledger.reserving.shards.runner
        with monkeypatch.context() as patched:
            patched.setattr(runner, "run", away)
            assert (await gate.chat(QUICK)).status_code == 200
        await gate.settle_all()
        events = await gate.events(SHADOW)
        assert len(events) == 2, "its settlement charges without a hold"
        assert events[1].facts["flags"] == ["would_deny", "ledger_unavailable"]
        assert [each.reason for each in await refusals(gate)] == ["ledger_unavailable"]
        await clean(gate)


async def test_an_idempotency_key_has_no_effect(serve: Serve, sim: Sim) -> None:
    async with serve(mode="shadow", customers=customers()) as gate:
        body = {"model": "small", "messages": [{"role": "user", "content": QUICK}]}
        for _ in range(2):
            answer = await gate.post("/v1/chat/completions", body, {"idempotency-key": "same"})
            assert answer.status_code == 200
        assert sim.provider.served.posts == 2


async def test_each_switch_opens_the_wallet_with_what_the_live_one_has(serve: Serve) -> None:
    async with serve(customers=customers()) as gate:
        await gate.chat(QUICK)
        await gate.settle_all()
        spent = await gate.settled_nano()
        assert spent > 0

        async def enter(mode: Any) -> None:
            await gate.store.modes.set("acme", SetMode(mode, f"s-{mode}-{counted[0]}", 1, "", ""))
            counted[0] += 1
            flow = gate.service.flow
            await until(lambda: flow.catalog.modes.of("acme")[0] == mode, within_s=2)

        counted = [0]
        await enter("shadow")
        await asyncio.gather(*(gate.chat(QUICK) for _ in range(8)))
        await gate.settle_all()
        wallet = (await gate.store.wallets.read([SHADOW]))[SHADOW]
        assert wallet.adjusted_nano == CREDIT - spent, "once, although eight asked at once"
        assert wallet.balance_nano(1) == CREDIT - spent - wallet.settled_nano
        shadow_spent = wallet.settled_nano

        await enter("enforce")
        await gate.chat(QUICK)
        await gate.settle_all()
        spent = await gate.settled_nano()
        assert len(await gate.events(SHADOW)) == 8

        await enter("shadow")
        await gate.chat(QUICK)
        await gate.settle_all()
        wallet = (await gate.store.wallets.read([SHADOW]))[SHADOW]
        last = wallet.settled_nano - shadow_spent
        assert wallet.balance_nano(1) == CREDIT - spent - last
        await clean(gate)


async def test_a_running_request_ends_in_the_mode_in_which_it_began(serve: Serve) -> None:
    async with serve(mode="shadow", customers=customers()) as gate:
        slow = asyncio.create_task(
            gate.chat("hi\nsim: tokens=40 itl_ms=50", stream=True, max_tokens=50)
        )
        await until(lambda: len(gate.live) == 1)
        await gate.store.modes.set(None, SetMode("enforce", "s1", 1, "", ""))
        await until(lambda: gate.service.flow.catalog.modes.of("acme")[0] == "enforce", within_s=2)
        assert not slow.done()
        enforced = await gate.chat(QUICK)
        assert "x-credits-remaining" in enforced.headers
        assert (await slow).status_code == 200
        await gate.settle_all()
        assert len(await gate.events(SHADOW)) == 1
        assert len(await gate.events("acme")) == 1
        await clean(gate)
