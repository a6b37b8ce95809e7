"""Wallets, grants and tokens over the API."""

from typing import Any

import pytest

from gateway.ledger.client.errors import LedgerUnavailable
from tests.support.console import Console


async def error(console: Console, method: str, path: str, **sent: Any) -> tuple[int, str, Any]:
    answer = await console.client.request(method, path, **sent)
    said = answer.json()["error"]
    assert set(said) == {"type", "code", "message", "param", "doc_url", "request_id"}
    return answer.status_code, said["code"], said["param"]


async def test_a_grant_is_made_shown_and_voided(console: Console) -> None:
    body = {
        "customer_id": "broke",
        "amount": "2.50",
        "category": "promotional",
        "priority": 7,
        "expires_at": "2099-01-31T00:00:00+01:00",
        "name": "sorry",
        "reason": "an outage",
    }
    made = await console.client.post("/api/v1/grants", json=body)
    assert made.status_code == 201
    grant_id = made.json()["id"]
    assert grant_id == "gr_broke_1"
    shown = (await console.client.get(f"/api/v1/grants/{grant_id}")).json()
    assert shown["name"] == "sorry"
    assert (shown["remaining"], shown["priority"]) == ("2.5", 7)
    assert shown["expires_at"] == "2099-01-30T23:00:00.000Z"
    wallet = (await console.client.get("/api/v1/wallets/broke")).json()
    assert (wallet["balance"], wallet["grants"]) == ("2.5", [shown])
    voided = await console.client.post(f"/api/v1/grants/{grant_id}/void", json={"reason": "no"})
    assert (voided.json()["voided"], voided.json()["balance"]) == ("2.5", "0")


async def test_a_list_comes_in_pages(console: Console) -> None:
    for number in range(3):
        body = {"customer_id": "broke", "amount": "1.00", "name": f"no {number}"}
        await console.client.post("/api/v1/grants", json=body)
    seen: list[str] = []
    query = {"customer_id": "broke", "limit": "2"}
    while True:
        page = (await console.client.get("/api/v1/grants", params=query)).json()
        seen += [each["id"] for each in page["data"]]
        if not page["has_more"]:
            break
        query["starting_after"] = page["next_cursor"]
    assert seen == ["gr_broke_1", "gr_broke_2", "gr_broke_3"]
    assert page["next_cursor"] is None


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"amount": 5}, "parameter_invalid", "amount"),
        ({"amount": "0"}, "parameter_invalid", "amount"),
        ({"amount": "-1"}, "parameter_invalid", "amount"),
        ({"amount": "1.0000000001"}, "parameter_invalid", "amount"),
        ({"amount": None}, "parameter_invalid", "amount"),
        ({"customer_id": "a b"}, "parameter_invalid", "customer_id"),
        ({"category": "gift"}, "parameter_invalid", "category"),
        ({"priority": 256}, "parameter_invalid", "priority"),
        ({"priority": "1"}, "parameter_invalid", "priority"),
        ({"expires_at": 5}, "parameter_invalid", "expires_at"),
        ({"expires_at": "2099-01-01"}, "parameter_invalid", "expires_at"),
        ({"expires_at": "2099-01-01T00:00:00"}, "parameter_invalid", "expires_at"),
        ({"reason": "a\u0000b"}, "parameter_invalid", "reason"),
        ({"ammount": "5"}, "parameter_unknown", "ammount"),
    ],
)
async def test_a_wrong_field_is_named(
    console: Console, change: dict[str, Any], code: str, param: str
) -> None:
    body = {"customer_id": "acme", "amount": "1.00"} | change
    assert await error(console, "POST", "/api/v1/grants", json=body) == (400, code, param)


async def test_a_missing_field_and_a_broken_body_are_told_apart(console: Console) -> None:
    path = "/api/v1/grants"
    said = await error(console, "POST", path, json={"amount": "1.00"})
    assert said == (400, "parameter_missing", "customer_id")
    json = {"content-type": "application/json"}
    for content in (b"{", b"[]", b"5", b"", b'{"amount": "\\ud800"}'):
        status, _, _ = await error(console, "POST", path, content=content, headers=json)
        assert status == 400


async def test_what_does_not_exist_is_404_and_what_cannot_be_409(console: Console) -> None:
    assert (await error(console, "GET", "/api/v1/wallets/nobody"))[:2] == (404, "not_found")
    assert (await error(console, "GET", "/api/v1/grants/gr_acme_99"))[:2] == (404, "not_found")
    path = "/api/v1/grants/gr_acme_99/void"
    said = await error(console, "POST", path, json={"reason": "no"})
    assert said[:2] == (409, "conflict")
    body = {"customer_id": "acme", "amount": "1.00", "expires_at": "2001-01-01T00:00:00Z"}
    assert (await error(console, "POST", "/api/v1/grants", json=body))[:2] == (409, "conflict")


async def test_an_unreachable_ledger_is_503(console: Console, monkeypatch: Any) -> None:
    async def away(*_: object) -> None:
        raise LedgerUnavailable("the ledger cannot be reached")

    monkeypatch.setattr("gateway.admin.api.wallets.show_wallet", away)
    answer = await console.client.get("/api/v1/wallets/acme")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_a_token_opens_what_its_role_and_scopes_permit_until_it_is_revoked(
    console: Console,
) -> None:
    body = {"name": "ci", "role": "billing", "scopes": ["grants.write"]}
    made = (await console.client.post("/api/v1/tokens", json=body)).json()
    headers = {"authorization": f"Bearer {made['secret']}"}
    grant = {"customer_id": "acme", "amount": "1.00"}

    async def statuses() -> tuple[int, int]:
        read = await console.bare.get("/api/v1/wallets/acme", headers=headers)
        write = await console.bare.post("/api/v1/grants", json=grant, headers=headers)
        return read.status_code, write.status_code

    assert await statuses() == (403, 201)
    [listed] = (await console.client.get("/api/v1/tokens")).json()["data"]
    assert listed["last_used_at"] is not None
    assert "secret" not in listed
    for _ in range(2):
        revoked = await console.client.delete(f"/api/v1/tokens/{made['id']}")
        assert revoked.json()["status"] == "revoked"
    assert await statuses() == (401, 401)


async def test_an_expired_token_opens_nothing(console: Console) -> None:
    body = {"name": "ci", "role": "admin", "expires_at": "2001-01-01T00:00:00Z"}
    made = (await console.client.post("/api/v1/tokens", json=body)).json()
    assert made["status"] == "expired"
    headers = {"authorization": f"Bearer {made['secret']}"}
    assert (await console.bare.get("/api/v1/wallets/acme", headers=headers)).status_code == 401


@pytest.mark.parametrize("header", ["", "Bearer", "Basic abc", "cga_x", "Bearer wrong"])
async def test_a_wrong_credential_is_401(console: Console, header: str) -> None:
    answer = await console.bare.get("/api/v1/wallets/acme", headers={"authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_restricted_token_makes_no_token_that_may_do_more(console: Console) -> None:
    body = {"name": "ci", "role": "admin", "scopes": ["tokens.write", "usage.read"]}
    made = (await console.client.post("/api/v1/tokens", json=body)).json()
    headers = {"authorization": f"Bearer {made['secret']}"}
    statuses = {}
    for scopes in ([], ["grants.write"], ["usage.read", "grants.write"], ["usage.read"]):
        wanted = {"name": "more", "role": "admin", "scopes": scopes}
        answer = await console.bare.post("/api/v1/tokens", json=wanted, headers=headers)
        statuses[tuple(scopes)] = answer.status_code
    assert statuses == {
        (): 403,
        ("grants.write",): 403,
        ("usage.read", "grants.write"): 403,
        ("usage.read",): 201,
    }
    assert len((await console.client.get("/api/v1/tokens")).json()["data"]) == 2
