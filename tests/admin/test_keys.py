"""API keys over the API."""

from typing import Any

import pytest

from tests.support.console import Console


async def created(console: Console, **body: Any) -> dict[str, Any]:
    answer = await console.client.post("/api/v1/keys", json={"customer_id": "acme"} | body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_a_key_is_created_with_options_and_shown_without_its_secret(
    console: Console,
) -> None:
    made = await created(
        console,
        name="ci",
        project_id="search",
        expires_at="2099-01-01T00:00:00Z",
        limits=[{"measure": "tokens", "window": "day", "ceiling": "1000"}],
        networks=["10.0.0.0/8"],
        reason="a new pipeline",
    )
    secret = made.pop("secret")
    assert made["shown"] == f"sk-cg-…{secret[-4:]}"
    assert made["limits"][0] | {"scope": "key", "ceiling": "1000"} == made["limits"][0]
    read = await console.client.get(f"/api/v1/keys/{made['id']}")
    assert read.json() == made
    assert secret not in read.text
    listed = (await console.client.get("/api/v1/keys", params={"customer_id": "acme"})).json()
    assert made in listed["data"]
    assert {each["kept_in"] for each in listed["data"]} == {"configuration", "ledger"}


async def test_a_test_key_is_not_live(console: Console) -> None:
    made = await created(console, livemode=False)
    assert made["secret"].startswith("sk-test-")
    assert made["livemode"] is False
    assert (await console.client.get("/api/v1/wallets/acme~test")).status_code == 200


async def test_a_rotated_key_names_its_successor_and_ends(console: Console) -> None:
    old = await created(console, name="ci")
    path = f"/api/v1/keys/{old['id']}"
    new = (await console.client.post(f"{path}/rotate", json={"grace_s": 60})).json()
    assert (new["name"], new["customer_id"]) == ("ci", "acme")
    assert new["secret"] != old["secret"]
    read = (await console.client.get(path)).json()
    assert read["replaced_by"] == new["id"]
    assert read["expires_at"] is not None
    again = await console.client.post(f"{path}/rotate", json={})
    assert again.status_code == 409


async def test_support_may_revoke_a_key_but_not_create_one(console: Console) -> None:
    made, support = await created(console), await console.as_role("support")
    body = {"customer_id": "acme"}
    answer = await console.bare.post("/api/v1/keys", json=body, headers=support)
    assert answer.status_code == 403
    path = f"/api/v1/keys/{made['id']}/revoke"
    revoked = await console.bare.post(path, json={"kill": True}, headers=support)
    assert revoked.json()["revoked_at"] is not None


async def test_a_repeated_creation_makes_one_key_and_shows_its_secret_once(
    console: Console,
) -> None:
    body, headers = {"customer_id": "broke"}, {"idempotency-key": "a key"}
    first, again = [
        (await console.client.post("/api/v1/keys", json=body, headers=headers)).json()
        for _ in range(2)
    ]
    assert again == first | {"secret": None}


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"networks": ["home"]}, 400, "networks.0"),
        ({"customer_id": "nobody"}, 404, None),
        ({"models": ["unknown"]}, 409, None),
        ({"expires_at": "2001-01-01T00:00:00Z"}, 409, None),
        ({"livemode": "no"}, 400, "livemode"),
    ],
)
async def test_what_no_gate_could_honour_is_refused(
    console: Console, change: dict[str, Any], status: int, param: str | None
) -> None:
    answer = await console.client.post("/api/v1/keys", json={"customer_id": "acme"} | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
