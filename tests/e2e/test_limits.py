"""Who may, how much, until when: limits, keys and networks, through a complete gate."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.flow.handler import Flow
from gateway.flow.known_head import KnownHead
from tests.support.gate import KEY, Gate, Serve, digest
from tests.support.upstreams import Sim

QUICK = "hi\nsim: tokens=3"


def customers(*limits: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One funded customer with these limits."""
    acme = {
        "grants": [{"name": "start", "amount": "10.00", "category": "paid"}],
        "keys": [{"id": "k_acme", "sha256": digest(KEY)}],
        "limits": list(limits),
    }
    return {"acme": {**acme, **more}}


def limit(measure: str, ceiling: str, window: str | None = None, scope: str = "customer") -> Any:
    said = {"measure": measure, "ceiling": ceiling, "scope": scope}
    return {**said, "window": window} if window else said


@pytest.mark.parametrize(
    ("given", "source"),
    [
        (limit("requests", "2", "month"), "customer acme (requests per month)"),
        (limit("requests", "2", "day", "key"), "key k_acme (requests per day)"),
        (limit("tokens", "250", "week"), "customer acme (tokens per week)"),
    ],
)
async def test_a_rate_limit_is_429_with_its_scope_and_when_to_come_back(
    serve: Serve, sim: Sim, given: dict[str, Any], source: str
) -> None:
    async with serve(customers=customers(given)) as gate:
        statuses = []
        for _ in range(3):
            answer = await gate.chat(f"{QUICK} input=100", max_tokens=10)
            statuses.append(answer.status_code)
            await gate.settle_all()
        assert statuses == [200, 200, 429]
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert error["metadata"]["limit_source"] == source
        assert source in error["message"]
        longest = {"day": 86_400, "week": 7 * 86_400, "month": 31 * 86_400}[given["window"]]
        assert 1 <= int(answer.headers["retry-after"]) <= longest
        details = error["metadata"]["limit"]
        assert (details["scope"], details["name"]) == (given["scope"], source.split()[1])
        assert (details["measure"], details["window"]) == (given["measure"], given["window"])
        assert details["ceiling"] == int(given["ceiling"])
        assert details["retry_after_s"] == int(answer.headers["retry-after"])
        too_long = int(answer.headers["retry-after"]) > 120
        assert answer.headers.get("x-should-retry") == ("false" if too_long else None)
        assert sim.provider.served.posts == 2


async def test_a_spend_limit_is_402_although_there_is_credit(serve: Serve) -> None:
    limits = customers(limit("spend", "0.0002", "day"))
    async with serve(customers=limits) as gate:
        answer = await gate.chat(QUICK, max_tokens=100)
        assert answer.status_code == 402
        metadata = answer.json()["error"]["metadata"]
        assert metadata["reason"] == "spend_limit"
        assert metadata["limit_source"] == "customer acme (spend per day)"
        assert answer.headers["x-should-retry"] == "false"
        assert "retry-after" not in answer.headers, "no day has room for it"
        assert (await gate.chat(f"{QUICK} input=150", max_tokens=5)).status_code == 200
        await gate.settle_all()
        answer = await gate.chat(QUICK, max_tokens=5)
        assert answer.status_code == 402
        assert 0 < int(answer.headers["retry-after"]) <= 86_400


async def test_a_spend_limit_that_running_requests_hold_is_429(serve: Serve) -> None:
    limits = customers(limit("spend", "0.0006", "day"))
    async with serve(customers=limits) as gate:
        stream = {
            "model": "small",
            "stream": True,
            "max_tokens": 100,
            "messages": [{"role": "user", "content": "hi\nsim: tokens=20 itl_ms=10"}],
        }
        async with gate.client.stream(
            "POST", "/v1/chat/completions", json=stream, headers=gate.headers
        ) as running:
            refused = await gate.chat(QUICK, max_tokens=100)
            assert refused.status_code == 429
            assert refused.json()["error"]["metadata"]["reason"] == "spend_limit"
            assert int(refused.headers["retry-after"]) >= 1
            await running.aread()


async def test_an_anthropic_client_is_told_whose_limit_it_is(serve: Serve) -> None:
    limits = customers(limit("requests", "1", "minute", "key"))
    async with serve(customers=limits) as gate:
        message = {
            "model": "small",
            "max_tokens": 5,
            "messages": [{"role": "user", "content": QUICK}],
        }
        assert (await gate.post("/v1/messages", message)).status_code == 200
        await gate.settle_all()
        refused = await gate.post("/v1/messages", message)
        assert refused.status_code == 429
        error = refused.json()["error"]
        assert error["type"] == "rate_limit_error"
        assert "key k_acme (requests per minute)" in error["message"]
        details = error["metadata"]["limit"]
        assert (details["name"], details["rolling"], details["left"]) == ("k_acme", True, 0)
        assert 55 <= details["retry_after_s"] <= 65, "a window and what is left of its slot"
        assert refused.headers["retry-after"] == str(details["retry_after_s"])


async def test_credits_show_the_caller_s_limits_as_they_stand(serve: Serve) -> None:
    given = (
        limit("requests", "5", "minute", "key"),
        limit("spend", "1.00", "day"),
        {"scope": "model", "model": "dear", "measure": "requests", "window": "day", "ceiling": 3},
        limit("concurrent", "2"),
    )
    async with serve(customers=customers(*given)) as gate:
        await gate.chat(QUICK)
        event = await gate.one_event()
        shown = (await gate.client.get("/v1/credits", headers=gate.headers)).json()["data"]
        spent = f"{event.amount_nano / 1e9:.9f}".rstrip("0")
        requests, spend, running, dear = shown["limits"]
        assert (running["window"], running["left"], running["window_end"]) == (None, 2, None)
        assert (spend["used"], spend["held"], spend["ceiling"]) == (spent, "0", "1")
        assert spend["window_end"].endswith("T00:00:00.000Z")
        assert {name: requests[name] for name in ("scope", "name", "used", "held", "left")} == {
            "scope": "key", "name": "k_acme", "used": 1, "held": 0, "left": 4,
        }  # fmt: skip
        assert (dear["scope"], dear["name"], dear["used"], dear["left"]) == ("model", "dear", 0, 3)


async def test_a_model_s_limit_stops_that_model_alone(serve: Serve) -> None:
    given = {"scope": "model", "models": ["dear"], "measure": "requests", "window": "day"}
    limits = customers({**given, "ceiling": 1})
    async with serve(customers=limits) as gate:
        assert (await gate.chat(QUICK, model="dear", max_tokens=5)).status_code == 200
        await gate.settle_all()
        refused = await gate.chat(QUICK, model="dear", max_tokens=5)
        assert refused.status_code == 429
        metadata = refused.json()["error"]["metadata"]
        assert metadata["limit_source"] == "model dear (requests per day)"
        assert (await gate.chat(QUICK, model="small")).status_code == 200


async def test_a_concurrency_limit_opens_again_when_a_request_ends(serve: Serve) -> None:
    limits = customers(limit("concurrent", "1"))
    async with serve(customers=limits) as gate:
        async with gate.client.stream(
            "POST",
            "/v1/chat/completions",
            json={
                "model": "small",
                "stream": True,
                "messages": [{"role": "user", "content": "hi\nsim: tokens=20 itl_ms=10"}],
            },
            headers=gate.headers,
        ) as running:
            refused = await gate.chat(QUICK)
            assert refused.status_code == 429
            assert refused.json()["error"]["metadata"]["reason"] == "concurrency_limit"
            assert int(refused.headers["retry-after"]) >= 1
            await running.aread()
        await gate.settle_all()
        assert (await gate.chat(QUICK)).status_code == 200


async def test_openai_s_own_status_for_an_empty_account_is_a_switch(serve: Serve) -> None:
    policy = {"preset": "balanced", "insufficient_status": 429}
    nobody = customers(grants=[])
    async with serve(policy=policy, customers=nobody) as gate:
        answer = await gate.chat(QUICK)
        assert answer.status_code == 429
        assert answer.json()["error"]["type"] == "insufficient_quota"
        assert answer.headers["x-should-retry"] == "false"
        expecting = await gate.client.post(
            "/v1/chat/completions",
            content=b"{}",
            headers={**gate.headers, "expect": "100-continue"},
        )
        assert expecting.status_code == 429


async def test_a_revoked_key_is_401_at_the_next_request_whatever_it_asks(
    gate: Gate, sim: Sim
) -> None:
    await gate.store.keys.add(digest("sk-made"), "k-made", "acme")
    made = {"authorization": "Bearer sk-made"}
    count = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}

    async def statuses() -> list[int]:
        return [
            (await gate.client.get("/v1/credits", headers=made)).status_code,
            (await gate.client.get("/v1/models", headers=made)).status_code,
            (await gate.post("/v1/messages/count_tokens", count, headers=made)).status_code,
            (
                await gate.post(
                    "/v1/chat/completions",
                    {"model": "small", "messages": [{"role": "user", "content": QUICK}]},
                    headers=made,
                )
            ).status_code,
        ]

    assert await statuses() == [200, 200, 200, 200]
    await gate.settle_all()
    assert [event.facts["key_id"] for event in await gate.events()] == ["k-made", "k-made"]
    posts = sim.provider.served.posts
    await gate.store.keys.revoke(gate.ledger.wallets, "k-made")
    assert await statuses() == [401, 401, 401, 401]
    assert sim.provider.served.posts == posts
    assert (await gate.chat(QUICK)).status_code == 200, "the customer's other keys go on"


async def test_a_conclusion_that_the_ledger_calls_stale_is_made_again(
    gate: Gate, sim: Sim, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As when two requests read a changed account at once, and one of them concluded too early.
    monkeypatch.setattr(KnownHead, "holds", lambda *_: True)
    assert (await gate.chat(QUICK)).status_code == 200
    wallet = (await gate.store.wallets.read(["acme"]))["acme"]
    await gate.ledger.account("acme", account_rev=wallet.account_rev + 1)
    assert [(await gate.chat(QUICK)).status_code for _ in range(3)] == [200, 200, 200]


async def test_a_head_that_a_trusted_peer_sent_opens_nothing_to_another_peer(serve: Serve) -> None:
    trusted = {"customer": "x-customer", "networks": ["127.0.0.2/32"]}
    auth = {"keys": True, "trusted_header": trusted}
    async with serve(auth=auth) as gate:

        async def statuses(source: str, times: int) -> list[int]:
            """The same bytes, several times, from this address."""
            transport = httpx.AsyncHTTPTransport(local_address=source)
            async with httpx.AsyncClient(transport=transport, base_url=gate.url) as client:
                asked = {"model": "small", "messages": [{"role": "user", "content": QUICK}]}
                head = {"x-customer": "acme"}
                path = "/v1/chat/completions"
                return [
                    (await client.post(path, json=asked, headers=head)).status_code
                    for _ in range(times)
                ]

        assert await statuses("127.0.0.2", 3) == [200] * 3
        assert await statuses("127.0.0.1", 3) == [401] * 3
        assert await statuses("127.0.0.2", 1) == [200]


async def test_a_trusted_gateway_names_the_customer_and_upstream_does_not_hear_of_it(
    serve: Serve,
) -> None:
    trusted = {"customer": "x-customer", "project": "x-project", "networks": ["127.0.0.0/8"]}
    auth = {"keys": True, "trusted_header": trusted}
    async with serve(auth=auth) as gate:
        body = {"model": "small", "messages": [{"role": "user", "content": QUICK}]}
        said = {"x-customer": "acme", "x-project": "p1"}
        answer = await gate.client.post("/v1/chat/completions", json=body, headers=said)
        assert answer.status_code == 200
        event = await gate.one_event()
        assert (event.facts["project_id"], event.facts["key_id"]) == ("p1", "trusted")
        nobody = await gate.client.post(
            "/v1/chat/completions", json=body, headers={"x-customer": "nobody"}
        )
        assert nobody.status_code == 401


async def test_a_request_that_comes_while_the_gate_drains_is_503_and_health_still_answers(
    gate: Gate, sim: Sim
) -> None:
    flow: Flow = gate.service.flow
    flow.draining = True
    answer = await gate.chat(QUICK)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "shutting_down"
    assert int(answer.headers["retry-after"]) >= 1
    assert "x-should-retry" not in answer.headers
    assert (await gate.client.get("/healthz")).status_code == 200
    assert sim.provider.served.posts == 0


async def test_the_policy_s_output_maximum_is_told_to_the_upstream(serve: Serve) -> None:
    policy = {"preset": "balanced", "default_max_output_tokens": 20}
    async with serve(policy=policy) as gate:
        answer = await gate.chat("hi\nsim: tokens=500")
        event = await gate.one_event()
        assert event.usage["output"] == 20, "what was bounded is what can come"
        assert event.amount_nano <= event.estimated_amount_nano
        assert answer.json()["choices"][0]["finish_reason"] == "length"


async def test_a_changed_credit_limit_reaches_a_gate_that_was_not_told(
    gate: Gate, sim: Sim, tmp_path: Path
) -> None:
    wallet = (await gate.store.wallets.read(["acme"]))["acme"]
    await gate.ledger.account(
        "acme", account_rev=wallet.account_rev + 1, credit_limit_nano=7, frozen=False
    )
    assert (await gate.chat(QUICK)).status_code == 200
    await gate.ledger.account("acme", account_rev=wallet.account_rev + 2, frozen=True)
    frozen = await gate.chat(QUICK)
    assert frozen.status_code == 402
    assert frozen.json()["error"]["metadata"]["reason"] == "wallet_frozen"


async def test_models_of_a_key_are_all_that_it_sees_and_may_use(serve: Serve) -> None:
    key = {"id": "k_acme", "sha256": digest(KEY), "models": ["small"]}
    only = customers(keys=[key])
    async with serve(customers=only) as gate:
        refused = await gate.chat(QUICK, model="dear")
        assert refused.status_code == 403
        shown = (await gate.client.get("/v1/models", headers=gate.headers)).json()["data"]
        assert [model["id"] for model in shown] == ["small"]
        hidden = await gate.client.get("/v1/models/dear", headers=gate.headers)
        assert hidden.status_code == 404
