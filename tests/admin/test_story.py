"""What happened, over the API: requests, refusals, events, usage, refunds, exports, gates, audit."""

import datetime as dt
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.admin.console.shop import Shop, running_shop
from tests.support.console import ADMIN_TOKEN
from tests.support.delivering import delivered
from tests.support.until import until
from tests.support.upstreams import Sim, sim

__all__ = ["sim"]


@dataclass(slots=True)
class Api:
    """A client of the shop's API."""

    shop: Shop
    client: httpx.AsyncClient

    async def get(self, path: str, status: int = 200, **params: Any) -> Any:
        answer = await self.client.get(f"/api/v1{path}", params=params)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def post(self, path: str, status: int = 201, **body: Any) -> Any:
        answer = await self.client.post(f"/api/v1{path}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()


@asynccontextmanager
async def api_of(shop: Shop) -> AsyncIterator[Api]:
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    async with httpx.AsyncClient(base_url=shop.url, headers=headers, timeout=30) as client:
        yield Api(shop, client)


@pytest.fixture
async def api(tmp_path: Path, valkey_socket: Path, sim: Sim) -> AsyncIterator[Api]:
    async with running_shop(tmp_path, valkey_socket, sim.url) as shop, api_of(shop) as api:
        yield api


async def test_one_request_from_its_charge_to_its_refund(api: Api) -> None:
    events = (await api.get("/events", kind="settle"))["data"]
    assert len(events) == 3
    settle = events[0]
    assert await api.get(f"/events/{settle['id']}") == settle | {
        "stored_at": (await api.get(f"/events/{settle['id']}"))["stored_at"]
    }
    story = await api.get(f"/requests/{settle['request_id']}")
    assert (story["decision"], story["charged"]) == ("allowed", settle["amount"])
    [event] = story["events"]
    assert (event["delivered"], event["adds_up"]) == (True, True)
    assert sum(Decimal(line["amount"]) for line in event["lines"]) == Decimal(settle["amount"])

    made = await api.post("/refunds", event_id=settle["id"], reason="slow")
    assert (made["amount"], made["left"]) == (settle["amount"], "0")
    await delivered(api.shop.gate)
    assert (await api.get(f"/requests/{settle['request_id']}"))["charged"] == "0"
    assert (await api.get(f"/events/{made['id']}"))["facts"]["reason"] == "slow"
    again = await api.post("/refunds", 409, event_id=settle["id"], reason="slow")
    assert again["error"]["code"] == "conflict"


async def test_a_refusal_says_what_would_have_let_the_request_through(api: Api) -> None:
    async def noted() -> bool:
        return bool((await api.get("/decisions", customer_id="broke"))["data"])

    await until(noted)
    [refused] = (await api.get("/decisions", customer_id="broke"))["data"]
    assert (refused["status"], refused["reason"]) == (402, "insufficient_credits")
    assert refused["remedies"]
    story = await api.get(f"/requests/{refused['request_id']}")
    assert (story["decision"], story["refusal"]) == ("refused", refused)
    others = await api.client.get("/api/v1/decisions", params={"status": 429})
    assert others.json()["data"] == []
    await api.get("/requests/unknown-request", 404)


async def test_events_come_in_pages_each_once(api: Api) -> None:
    every = (await api.get("/events", limit=100))["data"]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = await api.get("/events", **query)
        seen += [each["id"] for each in page["data"]]
        if not page["has_more"]:
            break
        query["starting_after"] = page["next_cursor"]
    assert seen == [each["id"] for each in every]
    assert len(set(seen)) == len(seen) > 4
    wrong = await api.get("/events", 400, starting_after="the last one")
    assert wrong["error"]["param"] == "starting_after"


async def test_usage_adds_up_by_any_dimension(api: Api) -> None:
    query: dict[str, Any] = {"group_by[]": ["customer", "model"]}
    by_customer = await api.get("/usage", **query)
    [line] = by_customer["data"]
    assert (line["group"]["customer"], line["requests"]) == ("acme", 3)
    assert by_customer["total"]["charged"] == line["charged"] != "0"
    assert line["quantities"]["output"] > 20
    nothing = await api.get("/usage", until="2001-01-01T00:00:00Z")
    assert (nothing["data"], nothing["total"]["requests"]) == ([], 0)
    wrong = await api.get("/usage", 400, **{"group_by[]": "colour"})
    assert wrong["error"]["param"] == "group_by[].0"


async def test_an_export_has_every_event_once(api: Api) -> None:
    every = (await api.get("/events", limit=100))["data"]
    answer = await api.client.get("/api/v1/exports/events")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["event_id"] for line in lines] == [each["id"] for each in every]
    assert answer.headers["content-disposition"].endswith('"events.jsonl"')
    answer = await api.client.get("/api/v1/exports/events", params={"format": "csv"})
    header, *rows = answer.text.splitlines()
    assert header.startswith("event_id,")
    assert len(rows) == len(every)


async def test_a_frozen_wallet_refuses_until_it_is_thawed(api: Api) -> None:
    frozen = await api.post("/wallets/acme/freeze", 200, reason="odd")
    assert (frozen["status"], frozen["changed"]) == ("frozen", True)
    assert (await api.post("/wallets/acme/freeze", 200))["changed"] is False
    assert (await api.shop.gate.chat("Hello")).status_code in (402, 403)
    assert (await api.post("/wallets/acme/thaw", 200))["status"] == "active"
    assert (await api.shop.gate.chat("Hello")).status_code == 200
    assert (await api.post("/wallets/acme/kill", 200))["status"] == "killed"


async def test_an_adjustment_moves_credit_and_every_change_is_in_the_audit_log(api: Api) -> None:
    made = await api.post("/adjustments", customer_id="acme", amount="-0.25", reason="agreed")
    assert made["amount"] == "-0.25"
    await api.post("/modes", 200, customer_id="acme", mode="shadow", reason="a trial")
    await delivered(api.shop.gate)
    entries = (await api.get("/audit", actor="token:admin.token"))["data"]
    newest = [(each["action"], each["reason"], each["amount"]) for each in entries[:2]]
    assert newest == [("mode.set", "a trial", None), ("adjustment.create", "agreed", "-0.25")]
    only = (await api.get("/audit", action="adjustment"))["data"]
    assert [each["id"] for each in only] == [made["id"]]
    modes = await api.get("/modes")
    assert modes["customers"]["acme"]["mode"] == "shadow"
    back = await api.post("/modes", 200, customer_id="acme", mode=None, reason="enough")
    assert back["mode"] == "enforce"


async def test_the_condition_of_gates_ledger_and_delivery(api: Api) -> None:
    assert (await api.get("/ledger"))["server"] is None
    delivery = await api.get("/delivery")
    assert [each["required"] for each in delivery["sinks"]] == [True]
    assert len(delivery["exporters"]) == 1
    assert isinstance((await api.get("/gates"))["data"], list)


async def test_an_open_hold_is_listed_and_given_back(api: Api) -> None:
    assert (await api.get("/holds"))["data"] == []
    unknown = await api.post("/holds/no-such-request/release", 404)
    assert unknown["error"]["code"] == "not_found"


async def test_a_period_is_shown_while_it_is_open_and_kept_once_it_is_closed(api: Api) -> None:
    now = dt.datetime.now(dt.UTC)
    open_now = await api.get(f"/statements/acme/{now:%Y-%m}")
    assert (open_now["closed_at"], open_now["document"]["usage"]["requests"]) == (None, 3)
    early = await api.post("/statements", 409, customer_id="acme", period=f"{now:%Y-%m}")
    assert "ends at" in early["error"]["message"]
    closed = await api.post("/statements", customer_id="acme", period="2020-01")
    assert (await api.get("/statements", customer_id="acme"))["data"] == [closed]
    kept = await api.get("/statements/acme/2020-01")
    assert (kept["sha256"], kept["closed_at"]) == (closed["sha256"], closed["closed_at"])
    await api.get("/statements/acme/January", 400)
