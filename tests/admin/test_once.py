"""`Idempotency-Key`: a write is done once, and its answer repeated."""

import asyncio
from typing import Any

import httpx

from tests.support.console import Console

GRANT = {"customer_id": "acme", "amount": "1.00"}


async def create(console: Console, key: str, **changes: Any) -> httpx.Response:
    return await console.client.post(
        "/api/v1/grants", json=GRANT | changes, headers={"idempotency-key": key}
    )


async def balance(console: Console) -> str:
    return str((await console.client.get("/api/v1/wallets/acme")).json()["balance"])


async def test_a_repeat_gets_the_same_answer_and_changes_nothing(console: Console) -> None:
    first, again = await create(console, "a key"), await create(console, "a key")
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert await balance(console) == "11"


async def test_a_refusal_is_repeated_as_well(console: Console) -> None:
    for replayed in (None, "true"):
        answer = await create(console, "a key", customer_id="nobody")
        assert answer.status_code == 404
        assert answer.headers.get("idempotent-replayed") == replayed


async def test_another_request_with_the_key_is_refused(console: Console) -> None:
    await create(console, "a key")
    answer = await create(console, "a key", amount="2.00")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert await balance(console) == "11"


async def test_another_token_may_use_the_same_key(console: Console) -> None:
    await create(console, "a key")
    answer = await console.bare.post(
        "/api/v1/grants",
        json=GRANT | {"amount": "2.00", "customer_id": "broke"},
        headers={"idempotency-key": "a key"} | await console.as_role("billing"),
    )
    assert answer.status_code == 201


async def test_of_many_at_once_one_is_done(console: Console) -> None:
    answers = await asyncio.gather(*(create(console, "a key") for _ in range(20)))
    done = [answer for answer in answers if answer.status_code == 201]
    running = [answer for answer in answers if answer.status_code == 409]
    assert len(done) >= 1
    assert len(done) + len(running) == 20
    assert all(each.json()["error"]["code"] == "idempotency_key_in_use" for each in running)
    assert await balance(console) == "11"


async def test_a_refused_right_is_not_recorded(console: Console) -> None:
    headers = {"idempotency-key": "a key"} | await console.as_role("read")
    for _ in range(2):
        answer = await console.bare.post("/api/v1/grants", json=GRANT, headers=headers)
        assert answer.status_code == 403
        assert "idempotent-replayed" not in answer.headers


async def test_nobody_without_a_credential_sees_a_recorded_answer(console: Console) -> None:
    await create(console, "a key")
    answer = await console.bare.post(
        "/api/v1/grants", json=GRANT, headers={"idempotency-key": "a key"}
    )
    assert answer.status_code == 401


async def test_a_key_that_is_none_is_refused(console: Console) -> None:
    for key in ("", "x" * 65, "é"):
        headers = {b"idempotency-key": key.encode()}
        answer = await console.client.post("/api/v1/grants", json=GRANT, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (
            400,
            "idempotency_key_invalid",
        )


async def test_a_secret_is_shown_once_and_not_recorded(console: Console) -> None:
    body, key = {"name": "ci", "role": "read"}, {"idempotency-key": "a key"}
    first = await console.client.post("/api/v1/tokens", json=body, headers=key)
    again = await console.client.post("/api/v1/tokens", json=body, headers=key)
    assert first.json()["secret"].startswith("cga_")
    assert again.json() == first.json() | {"secret": None}
    assert len((await console.client.get("/api/v1/tokens")).json()["data"]) == 1
