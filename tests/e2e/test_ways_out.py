"""Every way out of a request ends in one terminal event, and the money is right.

The rows are those of the table in docs/reference/outcomes.md. After each test nothing is held and the wallet
was charged exactly what its events say.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.domain.events import Event
from gateway.domain.reservation import Account
from gateway.ledger.codec.reservation_records import DueReservation
from tests.support.gate import BROKE_KEY, KEY, Gate, Serve, digest, running_gate
from tests.support.rawhttp import RawClient
from tests.support.upstreams import Sim

BALANCED = {"preset": "balanced"}
PRICE = {"input": 1000, "output": 4000}  # nano-credits a token, of the model `small`


async def ended(gate: Gate) -> Event:
    """The one terminal event; nothing is held, and the wallet was charged what it says."""
    event = await gate.one_event()
    assert await gate.held_nano() == 0
    assert await gate.settled_nano() == event.amount_nano
    return event


def priced(event: Event) -> int:
    """What the event's usage costs at the model's prices."""
    return sum(PRICE[unit] * n for unit, n in event.usage.items() if unit in PRICE)


async def test_a_whole_answer_is_charged_what_it_reports(gate: Gate, sim: Sim) -> None:
    answer = await gate.chat("hi\nsim: tokens=5", max_tokens=8)
    assert answer.status_code == 200
    event = await ended(gate)
    usage = answer.json()["usage"]
    assert event.kind == "settle"
    assert event.event_id == f"{answer.headers['x-request-id']}:settled"
    assert event.usage == {"input": usage["prompt_tokens"], "output": 5}
    assert event.amount_nano == priced(event)
    assert event.facts["usage_source"] == "provider_reported"
    assert answer.headers["x-credits-cost"] == f"{event.amount_nano / 1e9:.9f}".rstrip("0")


async def test_the_event_carries_every_fact(gate: Gate, sim: Sim) -> None:
    answer = await gate.chat("hi\nsim: tokens=5", max_tokens=8)
    event = await ended(gate)
    facts = event.facts
    assert facts["request_id"] == answer.headers["x-request-id"]
    assert facts["key_id"] == "k_acme"
    assert facts["route"] == "/v1/chat/completions"
    assert (facts["model"], facts["upstream"], facts["http_status"]) == ("small", "sim", 200)
    assert facts["finish_reason"]
    assert facts["response_model"]
    assert facts["upstream_request_id"] == answer.headers["x-upstream-request-id"]
    assert facts["duration_ms"] >= 0
    assert (facts["unit"], facts["mode"], facts["livemode"]) == ("credit", "enforce", True)
    assert event.price_version is not None
    assert {"project_id", "tags", "retry_of", "flags"} <= facts.keys()
    assert sum(nano for _, nano in event.allocations) == event.amount_nano


async def test_a_whole_stream_is_charged_what_it_reports(gate: Gate, sim: Sim) -> None:
    answer = await gate.chat("hi\nsim: tokens=50", stream=True)
    assert answer.text.endswith("data: [DONE]\n\n")
    event = await ended(gate)
    assert (event.kind, event.usage["output"]) == ("settle", 50)
    assert event.amount_nano == priced(event)


async def test_cached_tokens_are_charged_as_cached_and_once(gate: Gate, sim: Sim) -> None:
    answer = await gate.chat("hi\nsim: tokens=5 input=100 cached=60", max_tokens=8)
    assert answer.status_code == 200
    event = await ended(gate)
    assert event.usage == {"input": 40, "cache_read": 60, "output": 5}
    assert event.amount_nano == 40 * 1000 + 60 * 100 + 5 * 4000


async def test_usage_above_the_hold_is_charged_in_full_and_owed(gate: Gate, sim: Sim) -> None:
    answer = await gate.chat("hi\nsim: tokens=900 ignore_max=1", max_tokens=10)
    assert answer.status_code == 200
    event = await ended(gate)
    assert event.usage["output"] == 900
    assert event.amount_nano > event.estimated_amount_nano


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_an_error_of_the_upstream_releases_and_is_said_to_be_its_own(
    gate: Gate, sim: Sim, status: int
) -> None:
    answer = await gate.chat(f"hi\nsim: status={status}")
    assert answer.status_code == status
    assert answer.headers["x-error-source"] == "upstream"
    event = await ended(gate)
    assert (event.kind, event.amount_nano, event.facts["http_status"]) == ("release", 0, status)


async def test_an_upstream_that_cannot_be_reached_is_502_and_released(
    tmp_path: Path, valkey_socket: Path
) -> None:
    async with running_gate(tmp_path, valkey_socket, "http://127.0.0.1:9") as gate:
        answer = await gate.chat()
        assert answer.status_code == 502
        event = await ended(gate)
        assert (event.kind, event.amount_nano) == ("release", 0)


@pytest.mark.parametrize("how", ["rst=before_head", "rst=after_head", "length=long cut=20"])
async def test_a_broken_json_answer_is_502_and_released(gate: Gate, sim: Sim, how: str) -> None:
    answer = await gate.chat(f"hi\nsim: {how}")
    assert answer.status_code == 502
    event = await ended(gate)
    assert (event.kind, event.amount_nano) == ("release", 0)


@pytest.mark.parametrize("how", ["before_head", "after_head"])
async def test_an_upstream_that_hangs_is_504_and_released(serve: Serve, sim: Sim, how: str) -> None:
    timeouts = {"connect_ms": 500, "head_ms": 300, "between_bytes_ms": 300}
    upstreams = {"sim": {"base_url": sim.url, "timeouts": timeouts}}
    async with serve(upstreams=upstreams) as gate:
        answer = await gate.chat(f"hi\nsim: hang={how}")
        assert answer.status_code == 504
        event = await ended(gate)
        assert (event.kind, event.amount_nano) == ("release", 0)


async def test_a_stream_cut_by_the_upstream_ends_in_an_error_frame_and_charges_what_flowed(
    gate: Gate, sim: Sim
) -> None:
    answer = await gate.chat("hi\nsim: tokens=50 cut=20", stream=True)
    assert answer.status_code == 200
    assert '"error"' in answer.text
    assert '"finish_reason":"length"' not in answer.text
    event = await ended(gate)
    assert event.kind == "settle"
    assert event.usage["output"] == 20
    assert "upstream_cut" in event.facts["flags"]


async def test_a_stream_cut_before_its_first_token_is_released(gate: Gate, sim: Sim) -> None:
    await gate.chat("hi\nsim: tokens=50 rst=after_head", stream=True)
    event = await ended(gate)
    assert (event.kind, event.amount_nano) == ("release", 0)


async def test_a_client_that_leaves_a_stream_pays_for_what_flowed(gate: Gate, sim: Sim) -> None:
    async with gate.client.stream(
        "POST",
        "/v1/chat/completions",
        json=body("hi\nsim: tokens=2000 itl_ms=5", stream=True),
        headers=gate.headers,
    ) as answer:
        request_id = answer.headers["x-request-id"]
        seen = b""
        async for piece in answer.aiter_raw():
            seen += piece
            if seen.count(b"data: ") > 10:  # the first frame has no content
                break
    await asyncio.sleep(0.3)
    event = await ended(gate)
    served = sim.row(request_id).output
    assert (event.kind, event.event_id) == ("settle", f"{request_id}:settled")
    assert 10 <= event.usage["output"] <= served < 2000
    assert served - event.usage["output"] <= 5, "what the upstream wrote before it saw the close"
    assert "client_gone" in event.facts["flags"]


async def test_a_client_that_leaves_before_a_json_answer_pays_for_it(gate: Gate, sim: Sim) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await gate.client.post(
            "/v1/chat/completions",
            json=body("hi\nsim: tokens=30 ttft_ms=600"),
            headers=gate.headers,
            timeout=0.2,
        )
    for _ in range(100):
        await asyncio.sleep(0.05)
        if await gate.events():
            break
    event = await ended(gate)
    assert (event.kind, event.usage["output"]) == ("settle", 30)
    assert event.facts["usage_source"] == "provider_reported"


@pytest.mark.parametrize(
    ("policy", "charged"), [("charge_input", 0), ("charge_hold", 4096), ("drain", 40)]
)
async def test_the_route_s_policy_says_what_a_client_pays_that_leaves_a_stream(
    serve: Serve, policy: str, charged: int
) -> None:
    settings = {**BALANCED, "disconnect_stream": policy}
    async with serve(policy=settings) as gate:
        client = await RawClient.connect(int(gate.url.rpartition(":")[2]))
        sent = httpx.Request(
            "POST", "http://a/", json=body("hi\nsim: tokens=40 itl_ms=10", stream=True)
        )
        content = sent.read()
        client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            + f"Authorization: {gate.headers['authorization']}\r\n".encode()
            + b"Content-Length: %d\r\n\r\n" % len(content)
            + content
        )
        await client.reader.readuntil(b"data: ")
        client.reset()
        for _ in range(100):
            await asyncio.sleep(0.05)
            if await gate.events():
                break
        event = await ended(gate)
        assert event.usage.get("output", 0) == charged


async def test_a_stream_of_a_funded_customer_outgrows_its_first_hold(serve: Serve) -> None:
    policy = {**BALANCED, "hold_output_tokens": 50}
    async with serve(policy=policy) as gate:
        answer = await gate.chat("hi\nsim: tokens=400 itl_ms=2", stream=True)
        assert answer.text.endswith("data: [DONE]\n\n")
        event = await ended(gate)
        assert event.usage["output"] == 400
        assert event.estimated_amount_nano >= event.amount_nano, "the hold grew ahead of the use"
        assert event.estimated_amount_nano < 4096 * 4000, "and not to the maximum"


async def exhausted(tmp_path: Path, valkey_socket: Path, sim: Sim, how: str) -> tuple[str, Event]:
    """A stream for 1,000 tokens on a wallet for about 100, with this policy."""
    policy = {**BALANCED, "hold_output_tokens": 50, "exhausted_stream": how}
    customers = {
        "acme": {
            "grants": [{"name": "start", "amount": "0.000500", "category": "paid"}],
            "keys": [{"id": "k_acme", "sha256": digest(KEY)}],
        }
    }
    async with running_gate(
        tmp_path, valkey_socket, sim.url, policy=policy, customers=customers
    ) as gate:
        answer = await gate.chat("hi\nsim: tokens=1000 itl_ms=2", stream=True)
        return answer.text, await ended(gate)


async def test_an_exhausted_stream_is_cut_with_a_proper_error(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    text, event = await exhausted(tmp_path, valkey_socket, sim, "cut")
    assert '"finish_reason":"error"' in text.replace(" ", "")
    assert '"finish_reason":"length"' not in text.replace(" ", "")
    assert "cut" in event.facts["flags"]
    assert event.amount_nano <= event.estimated_amount_nano <= 500_000
    assert event.balance_nano >= 0


async def test_an_exhausted_stream_finishes_into_overdraft_where_the_policy_says_so(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    text, event = await exhausted(tmp_path, valkey_socket, sim, "finish")
    assert text.endswith("data: [DONE]\n\n")
    assert event.usage["output"] == 1000
    assert event.balance_nano < 0
    assert "credit_exhausted" in event.facts["flags"]


async def test_a_broke_customer_is_402_and_the_upstream_hears_nothing(gate: Gate, sim: Sim) -> None:
    answer = await gate.post(
        "/v1/chat/completions", body("hi"), headers={"authorization": f"Bearer {BROKE_KEY}"}
    )
    assert answer.status_code == 402
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "credit_balance_exhausted")
    assert error["metadata"]["reason"] == "insufficient_credits"
    assert error["metadata"]["available"] == "0"
    assert answer.headers["x-should-retry"] == "false"
    assert sim.provider.served.posts == 0
    assert await gate.events("broke") == []


async def test_credit_that_other_requests_hold_is_429_and_comes_back(serve: Serve) -> None:
    customers = {
        "acme": {
            "grants": [{"name": "start", "amount": "0.02", "category": "paid"}],
            "keys": [{"id": "k_acme", "sha256": digest(KEY)}],
        }
    }
    async with serve(customers=customers) as gate:
        running = asyncio.create_task(gate.chat("hi\nsim: tokens=3 ttft_ms=700"))
        await asyncio.sleep(0.3)
        blocked = await gate.chat("hi")
        assert blocked.status_code == 429
        assert blocked.json()["error"]["metadata"]["reason"] == "credit_held"
        assert int(blocked.headers["retry-after"]) >= 1
        assert "x-should-retry" not in blocked.headers
        assert (await running).status_code == 200
        await gate.settle_all()
        assert (await gate.chat("hi\nsim: tokens=3")).status_code == 200


async def test_the_hold_of_a_gate_that_died_expires_and_charges_its_input(serve: Serve) -> None:
    policy = {**BALANCED, "hold_ttl_ms": 30_000, "checkpoint_interval_ms": 200}
    async with serve(policy=policy) as gate:
        running = asyncio.create_task(gate.chat("hi\nsim: tokens=60 itl_ms=40", stream=True))
        await asyncio.sleep(1.2)
        held = await gate.held_nano()
        assert held > 0
        [open_hold] = await gate.store.holds.open_holds("acme")
        held_by = open_hold.reservation
        account = Account("acme", held_by.key_id, open_hold.shard, account_rev=0)
        due = DueReservation(open_hold.shard, open_hold.reservation_id, account)
        assert await gate.ledger.expire(due) is None, "it is not due"
        deadline_ms = held_by.deadline_ms + 60_000
        expired = await gate.ledger_at(deadline_ms).expire(due)
        assert expired is not None
        assert expired.outcome == "expired"
        assert await gate.held_nano() == 0
        assert expired.charged_nano >= 10 * 4000, "the checkpoint had seen tokens"
        assert (await running).status_code == 200
        await gate.settle_all()
        first, late_settle = await gate.events()
        assert (first.kind, late_settle.kind) == ("expire", "settle_late")
        assert first.amount_nano + late_settle.amount_nano == await gate.settled_nano()
        assert late_settle.usage["output"] == 60


def body(content: str, **fields: Any) -> dict[str, Any]:
    """A chat request."""
    return {"model": "small", "messages": [{"role": "user", "content": content}], **fields}


@pytest.fixture(autouse=True)
async def upstream_saw_each_post_once(sim: Sim) -> AsyncIterator[None]:
    """Promise 11, after every test here."""
    yield
    assert sim.provider.served.totals()["repeated_ids"] == 0
