"""Browser sessions: how they begin, what they need for writes, how they end."""

import asyncio
import re
from typing import Any

import httpx
import pytest

from gateway.admin.auth.attempts import IN_ALL, PER_ADDRESS, WINDOW_S, Attempts
from gateway.admin.auth.sessions import csrf_token
from gateway.admin.console.pages import now
from gateway.domain.actors import Actor
from gateway.operations.tokens import NewToken, create_token, offer_sign_in, revoke_token
from tests.support.console import ADMIN_TOKEN, Console, Serve

GRANT = {"customer_id": "acme", "amount": "1.00"}


async def sign_in(console: Console, secret: str) -> httpx.Response:
    return await console.bare.post(
        "/console/sign-in", data={"secret": secret}, headers={"origin": console.url}
    )


async def code_for(console: Console, role: Any = "admin") -> str:
    return await offer_sign_in(console.backend.accounts, Actor("command", "ada"), role)


async def test_a_one_time_code_signs_in_once(console: Console) -> None:
    code = await code_for(console)
    answer = await sign_in(console, code)
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"]
    assert re.match(r"creditgate_session=[\w-]{43}; ", cookie)
    assert {"HttpOnly", "Path=/", "SameSite=strict", "Max-Age=43200"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert (await console.bare.get("/api/v1/wallets/acme")).status_code == 200
    console.bare.cookies.clear()
    again = await sign_in(console, code)
    assert again.status_code == 401
    assert "set-cookie" not in again.headers


async def test_over_https_the_cookie_is_bound_to_this_host(serve: Serve) -> None:
    async with serve(console={"public_url": "https://console.example"}) as console:
        answer = await sign_in(console, ADMIN_TOKEN)
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-creditgate_session=")
        assert "Secure" in cookie.split("; ")
        assert "max-age" in answer.headers["strict-transport-security"]


@pytest.mark.parametrize("secret", ["", "wrong", "cgl_unknown", "cga_unknown", "x" * 600])
async def test_what_is_no_code_and_no_token_signs_nobody_in(console: Console, secret: str) -> None:
    answer = await sign_in(console, secret)
    assert answer.status_code in (400, 401)
    assert "set-cookie" not in answer.headers


async def test_a_session_that_a_token_has_opened_has_its_rights_and_ends_with_it(
    console: Console,
) -> None:
    made = await create_token(console.backend, NewToken("desk", "support"))
    await sign_in(console, made.secret)
    assert (await console.bare.get("/api/v1/wallets/acme")).status_code == 200
    assert (await console.bare.get("/api/v1/tokens")).status_code == 403
    token_id = made.entry.token.token_id
    assert (await console.client.delete(f"/api/v1/tokens/{token_id}")).status_code == 200
    answer = await console.bare.get("/api/v1/wallets/acme")
    assert answer.json()["error"]["code"] == "session_expired"


async def test_a_write_of_a_session_needs_its_csrf_token(console: Console) -> None:
    await sign_in(console, await code_for(console))
    own = {"origin": console.url}
    wrong: list[dict[str, str]] = [{}, {"x-csrf-token": "wrong"}, {"x-csrf-token": ""}]
    for csrf in wrong:
        answer = await console.bare.post("/api/v1/grants", json=GRANT, headers={**own, **csrf})
        assert answer.json()["error"]["code"] == "csrf_token_invalid"
    right = {"x-csrf-token": csrf_of(console)}
    answer = await console.bare.post("/api/v1/grants", json=GRANT, headers={**own, **right})
    assert answer.status_code == 201


async def test_signing_out_ends_the_session_for_whoever_has_the_cookie(console: Console) -> None:
    await sign_in(console, await code_for(console))
    cookies = dict(console.bare.cookies)
    form, own = {"csrf_token": csrf_of(console)}, {"origin": console.url}
    answer = await console.bare.post("/console/sign-out", data=form, headers=own)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in")
    console.bare.cookies.update(cookies)
    answer = await console.bare.get("/api/v1/wallets/acme")
    assert answer.json()["error"]["code"] == "session_expired"


async def test_failed_sign_ins_are_bounded_and_a_right_one_waits_as_well(console: Console) -> None:
    for _ in range(PER_ADDRESS):
        assert (await sign_in(console, "wrong")).status_code == 401
    answer = await sign_in(console, ADMIN_TOKEN)
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= WINDOW_S


def test_attempts_are_bounded_per_address_and_in_all_for_five_minutes() -> None:
    now = [0.0]
    attempts = Attempts(lambda: now[0])
    for _ in range(PER_ADDRESS):
        attempts.note_failure("10.0.0.1")
    assert (attempts.wait_s("10.0.0.1"), attempts.wait_s("10.0.0.2")) == (WINDOW_S, 0)
    for number in range(IN_ALL):
        attempts.note_failure(f"10.1.0.{number}")
    assert attempts.wait_s("10.0.0.2") == WINDOW_S
    now[0] = WINDOW_S + 1
    assert attempts.wait_s("10.0.0.1") == 0


def csrf_of(console: Console) -> str:
    return csrf_token(console.bare.cookies["creditgate_session"])


async def test_a_stream_ends_with_the_token_that_opened_it(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(now, "ASKED_EVERY_S", 0.1)
    made = await create_token(console.backend, NewToken("watcher", "read"))
    headers = {"authorization": f"Bearer {made.secret}"}
    async with console.bare.stream("GET", "/console/now/stream", headers=headers) as stream:
        lines = stream.aiter_lines()
        async for line in lines:
            if line.startswith("data:"):
                break
        await revoke_token(console.backend, made.entry.token.token_id)
        async with asyncio.timeout(10):
            assert len([line async for line in lines if line.startswith("data:")]) <= 2
