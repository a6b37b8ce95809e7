"""What customers see of their own usage with their key: sums, single requests, prices, the top-up page."""

import asyncio
import datetime as dt
import re
from typing import Any

import anthropic
import httpx
import openai
import pytest
from google import genai

from tests.support.delivering import delivered, exporting
from tests.support.gate import BROKE_KEY, KEY, Gate, Serve, digest

ENABLED: dict[str, Any] = {"enabled": True}
TOP_UP = {**ENABLED, "top_up_url": "https://pay.example.com/top-up?c={customer}"}
OTHER_KEY = "sk-cg-other"


def other_customer(config: dict[str, Any]) -> dict[str, Any]:
    """A second customer with credit, besides those of `gate_config`."""
    grants = [{"name": "start", "amount": "10.00"}]
    return {
        "acme": {"grants": grants, "keys": [{"id": "k_acme", "sha256": digest(KEY)}], **config},
        "other": {"grants": grants, "keys": [{"id": "k_other", "sha256": digest(OTHER_KEY)}]},
        "broke": {"keys": [{"id": "k_broke", "sha256": digest(BROKE_KEY)}]},
    }


async def get(gate: Gate, path: str, key: str = KEY) -> httpx.Response:
    return await gate.client.get(path, headers={"authorization": f"Bearer {key}"})


@pytest.mark.parametrize("path", ["/v1/usage", f"/v1/requests/{'0' * 32}", "/account"])
async def test_nothing_of_it_is_there_unless_it_is_enabled(gate: Gate, path: str) -> None:
    assert (await get(gate, path)).status_code == 404
    models = (await get(gate, "/v1/models")).json()["data"]
    assert all("pricing" not in model for model in models)


async def test_usage_is_summed_up_for_the_key_s_customer_alone(serve: Serve) -> None:
    async with serve(key_holders=ENABLED, customers=other_customer({})) as gate, exporting(gate):
        await gate.chat("hi\nsim: tokens=5", max_tokens=8)
        await gate.chat("hi\nsim: tokens=7", max_tokens=8, model="dear")
        await gate.post(
            "/v1/chat/completions",
            {"model": "small", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3},
            headers={"authorization": f"Bearer {OTHER_KEY}"},
        )
        await delivered(gate)
        events = await gate.events()
        found = (await get(gate, "/v1/usage?group_by=model")).json()
        by_key = (await get(gate, "/v1/usage?group_by=key")).json()
        strangers = (await get(gate, "/v1/usage?group_by=key", OTHER_KEY)).json()
    charges = {event.facts["model"]: event for event in events}
    assert found["customer"] == "acme"
    assert [line["model"] for line in found["data"]] == ["dear", "small"]
    for line in found["data"]:
        event = charges[line["model"]]
        assert nano(line["charge"]) == event.amount_nano
        assert line["usage"] == dict(event.usage)
        assert (line["requests"], line["corrected"]) == (1, "0")
    assert nano(found["total"]["charge"]) == sum(event.amount_nano for event in events)
    assert [line["key"] for line in by_key["data"]] == ["k_acme"]
    assert [line["key"] for line in strangers["data"]] == ["k_other"]


async def test_usage_says_up_to_when_it_is_complete(serve: Serve) -> None:
    async with serve(key_holders=ENABLED) as gate:
        async with exporting(gate):
            await gate.chat("hi\nsim: tokens=5", max_tokens=8)
            first = await gate.one_event()
            await delivered(gate)
            fresh = (await get(gate, "/v1/usage")).json()
        await gate.chat("hi\nsim: tokens=5", max_tokens=8)  # stays in the outbox
        await gate.settle_all()
        stale = (await get(gate, "/v1/usage?group_by=model")).json()
        *_, second = await gate.events()
    assert fresh["total"]["requests"] == stale["total"]["requests"] == 1
    assert ms(fresh["as_of"]) > first.occurred_at_ms
    assert ms(stale["as_of"]) == second.occurred_at_ms


async def test_before_anything_was_delivered_usage_is_empty_and_says_so(serve: Serve) -> None:
    async with serve(key_holders=ENABLED) as gate:
        await gate.chat("hi\nsim: tokens=5", max_tokens=8)
        await gate.settle_all()
        found = (await get(gate, "/v1/usage")).json()
        events = await gate.events()
    assert found["data"] == []
    assert ms(found["as_of"]) <= events[0].occurred_at_ms


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("group_by=customer", "group_by"),
        ("since=yesterday", "since"),
        ("since=2027-01-01T00:00:00", "since"),
        ("since=2020-01-01", "since"),
        ("since=2027-02-01&until=2027-01-01", "since"),
        ("until=2027-13-01", "until"),
        ("customer=other", "customer"),
        ("group_by=day&group_by=key", "group_by"),
        ("&".join(["since=2027-01-01"] * 21), None),
    ],
)
async def test_a_period_that_is_not_one_is_refused(
    serve: Serve, query: str, param: str | None
) -> None:
    async with serve(key_holders=ENABLED) as gate:
        answer = await get(gate, f"/v1/usage?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_a_period_is_bounded_by_the_moments_that_are_given(serve: Serve) -> None:
    async with serve(key_holders=ENABLED) as gate, exporting(gate):
        await gate.chat("hi\nsim: tokens=5", max_tokens=8)
        await delivered(gate)
        before = (await get(gate, "/v1/usage?since=2026-01-01&until=2026-02-01")).json()
    assert (before["since"], before["until"]) == (
        "2026-01-01T00:00:00.000Z",
        "2026-02-01T00:00:00.000Z",
    )
    assert before["data"] == []


async def test_one_request_is_shown_from_its_hold_to_its_charge(serve: Serve) -> None:
    async with serve(key_holders=ENABLED) as gate:
        answer = await gate.chat("hi\nsim: tokens=5", max_tokens=8)
        request_id = answer.headers["x-request-id"]
        event = await gate.one_event()
        waiting = (await get(gate, f"/v1/requests/{request_id}")).json()
        async with exporting(gate):
            await delivered(gate)
        shown = (await get(gate, f"/v1/requests/{request_id}")).json()
    assert waiting == shown, "delivered or not"
    assert (shown["id"], shown["status"], shown["decision"]) == (request_id, "charged", "allowed")
    assert shown["charge"] == answer.headers["x-credits-cost"]
    assert shown["held"] == answer.headers["x-credits-reserved"]
    assert (shown["model"], shown["key_id"], shown["livemode"]) == ("small", "k_acme", True)
    assert (shown["finish_reason"], shown["http_status"]) == ("stop", 200)
    assert shown["usage"] == answer_usage(answer)
    total = sum(round(float(line["amount"]) * 10**12) for line in shown["price_lines"])
    assert -(-total // 1000) == nano(shown["charge"])
    assert shown["events"][0]["id"] == event.event_id
    hidden = {"cost", "upstream", "upstream_error", "grants", "balance"}
    assert hidden.isdisjoint(shown)


async def test_a_running_and_a_refused_request_are_shown_too(serve: Serve) -> None:
    async with serve(key_holders=ENABLED) as gate:
        refused = await gate.post(
            "/v1/chat/completions",
            {"model": "dear", "messages": [{"role": "user", "content": "x"}]},
            headers={"authorization": f"Bearer {BROKE_KEY}"},
        )
        assert refused.status_code == 402
        refused_id = refused.headers["x-request-id"]
        async with gate.client.stream(
            "POST",
            "/v1/chat/completions",
            json={
                "model": "small",
                "stream": True,
                "messages": [{"role": "user", "content": "hi\nsim: tokens=200 itl_ms=20"}],
            },
            headers=gate.headers,
        ) as running:
            running_id = running.headers["x-request-id"]
            now = (await get(gate, f"/v1/requests/{running_id}")).json()
        await asyncio.sleep(0.6)  # refusals are written a few times a second
        found = (await get(gate, f"/v1/requests/{refused_id}", BROKE_KEY)).json()
        theirs = await get(gate, f"/v1/requests/{refused_id}", KEY)
    assert (now["status"], now["key_id"], now["charge"]) == ("running", "k_acme", "0")
    assert (found["status"], found["decision"]) == ("refused", "refused")
    assert found["refusal"]["reason"] == "insufficient_credits"
    assert found["refusal"]["http_status"] == 402
    assert theirs.status_code == 404


async def test_a_request_of_another_customer_is_as_unknown_as_none(serve: Serve) -> None:
    async with serve(key_holders=ENABLED, customers=other_customer({})) as gate:
        answer = await gate.chat("hi\nsim: tokens=5", max_tokens=8)
        await gate.settle_all()
        request_id = answer.headers["x-request-id"]
        theirs = await get(gate, f"/v1/requests/{request_id}", OTHER_KEY)
        async with exporting(gate):
            await delivered(gate)
        stored = await get(gate, f"/v1/requests/{request_id}", OTHER_KEY)
        nobody = await get(gate, f"/v1/requests/{'0' * 32}", OTHER_KEY)
        strange = await get(gate, "/v1/requests/no-id", OTHER_KEY)
    for each in (theirs, stored, nobody, strange):
        assert each.status_code == 404
        assert each.json() == nobody.json()


async def test_lists_of_models_show_this_customer_s_prices_in_each_dialect(serve: Serve) -> None:
    own = other_customer({"prices": {"small": {"input": "0.50", "output": "2.00"}}})
    async with serve(key_holders=ENABLED, customers=own) as gate:
        client = openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=KEY)
        small: Any = await client.models.retrieve("small")
        theirs: Any = await openai.AsyncOpenAI(
            base_url=f"{gate.url}/v1", api_key=OTHER_KEY
        ).models.retrieve("small")
        async with anthropic.AsyncAnthropic(base_url=gate.url, api_key=KEY) as claude:
            described: Any = await claude.models.retrieve("small")
        google = genai.Client(
            api_key=KEY, http_options={"base_url": gate.url, "api_version": "v1beta"}
        )
        listed = await asyncio.to_thread(
            lambda: [str(model.name) for model in google.models.list(config={"query_base": True})]
        )
        described_there = await google.aio.models.get(model="small")
        gemini = (await get(gate, "/v1beta/models/small")).json()
    assert small.pricing == {"input": "0.0000005", "output": "0.000002"}
    assert theirs.pricing == {"input": "0.000001", "cache_read": "0.0000001", "output": "0.000004"}
    assert described.pricing == small.pricing == gemini["pricing"]
    assert sorted(listed) == ["models/dear", "models/small"]
    assert described_there.name == "models/small"


@pytest.mark.parametrize("enabled", [True, False])
async def test_a_402_says_where_to_add_credit_in_every_dialect(serve: Serve, enabled: bool) -> None:
    url = "https://pay.example.com/top-up?c=broke"
    messages = [{"role": "user", "content": "x"}]
    async with serve(key_holders={**TOP_UP, "enabled": enabled}) as gate:
        openais = openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=BROKE_KEY)
        with pytest.raises(openai.APIStatusError) as refused:
            await openais.chat.completions.create(model="small", messages=messages)  # type: ignore[arg-type]
        body: Any = refused.value.body
        assert body["metadata"]["top_up_url"] == url
        assert body["message"].endswith(f"Top up: {url}")
        async with anthropic.AsyncAnthropic(base_url=gate.url, api_key=BROKE_KEY) as claude:
            with pytest.raises(anthropic.APIStatusError) as denied:
                await claude.messages.create(model="small", max_tokens=9, messages=messages)  # type: ignore[arg-type]
        said: Any = denied.value.body
        assert said["error"]["metadata"]["top_up_url"] == url
        assert url in said["error"]["message"]
        answer = await gate.client.post(
            "/v1beta/models/small:generateContent",
            json={"contents": [{"parts": [{"text": "x"}]}]},
            headers={"x-goog-api-key": BROKE_KEY},
        )
        assert answer.status_code == 402
        error = answer.json()["error"]
        assert error["details"][0]["metadata"]["top_up_url"] == url
        assert url in error["message"]


async def test_a_spend_limit_is_no_reason_to_add_credit(serve: Serve) -> None:
    limits = [{"measure": "spend", "window": "day", "ceiling": "0.000001"}]
    async with serve(key_holders=TOP_UP, customers=other_customer({"limits": limits})) as gate:
        answer = await gate.chat("x")
    assert answer.status_code == 402
    assert "top_up_url" not in answer.json()["error"]["metadata"]


def nano(decimal: str) -> int:
    whole, _, rest = decimal.partition(".")
    return int(whole) * 10**9 + int(rest.ljust(9, "0"))


def ms(text: str) -> int:
    return round(dt.datetime.fromisoformat(text).timestamp() * 1000)


def answer_usage(answer: httpx.Response) -> dict[str, int]:
    usage = answer.json()["usage"]
    assert re.fullmatch(r"\d+", str(usage["prompt_tokens"]))
    return {"input": usage["prompt_tokens"], "output": usage["completion_tokens"]}
