"""The page of key holders: who may open it, what it shows, what it never lets out."""

import re
import time
from typing import Any

import httpx
import pytest

from gateway.app.key_holders.account import COOKIE, TRIES
from gateway.app.key_holders.links import Pass, account_link, open_signer
from tests.support.delivering import delivered, exporting
from tests.support.gate import BROKE_KEY, KEY, PLAIN, Gate, Serve

ENABLED: dict[str, Any] = {"enabled": True}
FORM = {"content-type": "application/x-www-form-urlencoded"}
TOP_UP = "https://pay.example.com/top-up?c={customer}"


def browser(gate: Gate) -> httpx.AsyncClient:
    """A client with a cookie jar."""
    return httpx.AsyncClient(base_url=gate.url, verify=PLAIN, timeout=30)


def link(gate: Gate, customer_id: str = "acme", valid_s: int = 60) -> str:
    """The path and query of a link to a customer's page."""
    url = account_link(gate.settings, customer_id, int(time.time()) + valid_s)
    return url[url.index("/account") :]


async def enter(page: httpx.AsyncClient, key: str = KEY, **headers: str) -> httpx.Response:
    """Send the form with a key."""
    return await page.post("/account", data={"key": key}, headers=headers)


async def test_a_key_opens_the_page_of_its_customer(serve: Serve) -> None:
    async with serve(key_holders={**ENABLED, "top_up_url": TOP_UP}) as gate, exporting(gate):
        await gate.chat("hi\nsim: tokens=5", max_tokens=8)
        event = await gate.one_event()
        await delivered(gate)
        async with browser(gate) as page:
            form = await page.get("/account")
            assert 'name="key"' in form.text
            opened = await enter(page)
            assert (opened.status_code, opened.headers["location"]) == (303, "/account")
            shown = await page.get("/account")
    assert shown.status_code == 200
    assert "<h1>acme</h1>" in shown.text
    assert "k_acme" in shown.text
    assert "small" in shown.text
    assert f"{event.usage['output']} output" in shown.text
    assert 'href="https://pay.example.com/top-up?c=acme"' in shown.text
    assert KEY not in shown.text
    assert "<script" not in shown.text


async def test_every_answer_forbids_what_the_page_does_not_need(serve: Serve) -> None:
    async with serve(key_holders=ENABLED) as gate, browser(gate) as page:
        answers = [await page.get("/account"), await page.get(link(gate)), await enter(page)]
        answers += [await page.get("/account"), await page.get("/account/enter?token=x")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        with_token = "/enter" in str(answer.url)
        expected = "no-referrer" if with_token else "same-origin"
        assert answer.headers["referrer-policy"] == expected


async def test_a_link_opens_the_page_of_its_customer_alone(serve: Serve) -> None:
    async with serve(key_holders=ENABLED) as gate, browser(gate) as page:
        entered = await page.get(link(gate, "broke"))
        cookie = entered.headers["set-cookie"]
        shown = await page.get("/account")
    assert entered.status_code == 200
    assert 'content="0; url=/account"' in entered.text
    assert re.search(r"; Max-Age=3600; Path=/account; HttpOnly; SameSite=Strict$", cookie)
    assert "<h1>broke</h1>" in shown.text
    assert "k_acme" not in shown.text


async def test_over_https_the_cookie_is_for_https_alone(serve: Serve) -> None:
    section = {**ENABLED, "public_url": "https://api.example.com", "session_minutes": 5}
    async with serve(key_holders=section) as gate, browser(gate) as page:
        answer = await page.get(link(gate))
        assert account_link(gate.settings, "acme", 1).startswith("https://api.example.com/account/")
    assert answer.headers["set-cookie"].endswith(
        "; Max-Age=300; Path=/account; HttpOnly; SameSite=Strict; Secure"
    )


@pytest.mark.parametrize(
    "how", ["expired", "changed", "of another secret", "a session", "among many", "empty"]
)
async def test_what_is_no_valid_link_opens_nothing(serve: Serve, how: str) -> None:
    async with serve(key_holders=ENABLED) as gate, browser(gate) as page:
        path = link(gate, valid_s=-1) if how == "expired" else link(gate)
        if how == "changed":
            path = path[:-1] + ("A" if path[-1] != "A" else "B")
        if how == "of another secret":
            (gate.settings.data_dir / "links.secret").write_text("x" * 43 + "\n")
            path = link(gate)
        if how == "a session":
            signer = open_signer(gate.settings, gate.settings.data_dir)
            path = f"/account/enter?token={signer.sign(Pass('session', 'acme', 1 << 40))}"
        if how == "among many":
            path += "&x=1" * 9
        if how == "empty":
            path = "/account/enter"
        answer = await page.get(path)
        after = await page.get("/account")
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert 'name="key"' in after.text


async def test_a_link_is_no_cookie_and_a_cookie_ends(serve: Serve) -> None:
    async with serve(key_holders=ENABLED) as gate, browser(gate) as page:
        signer = open_signer(gate.settings, gate.settings.data_dir)
        late = int(time.time()) + 60
        for granted in (Pass("link", "acme", late), Pass("session", "acme", late - 61)):
            cookie = {"cookie": f"{COOKIE}={signer.sign(granted)}"}
            assert 'name="key"' in (await page.get("/account", headers=cookie)).text
        good = {"cookie": f"other=1; {COOKIE}={signer.sign(Pass('session', 'acme', late))}"}
        assert "<h1>acme</h1>" in (await page.get("/account", headers=good)).text


async def test_the_page_closes_with_the_key_that_opened_it(serve: Serve) -> None:
    async with serve(key_holders=ENABLED) as gate, browser(gate) as page:
        key = "sk-cg-made"
        digest = gate.service.flow.accounts.digest_of(key)
        await gate.store.keys.add(digest, "k_made", "acme")
        await enter(page, key)
        assert "<h1>acme</h1>" in (await page.get("/account")).text
        await gate.store.keys.revoke(gate.ledger.wallets, "k_made")
        assert 'name="key"' in (await page.get("/account")).text


async def test_signing_out_ends_it(serve: Serve) -> None:
    async with serve(key_holders=ENABLED) as gate, browser(gate) as page:
        await enter(page)
        left = await page.post("/account/sign-out")
        assert left.status_code == 303
        assert 'name="key"' in (await page.get("/account")).text


async def test_wrong_keys_are_counted_by_address(serve: Serve) -> None:
    async with serve(key_holders=ENABLED) as gate, browser(gate) as page:
        for _ in range(TRIES):
            assert (await enter(page, "sk-wrong")).status_code == 403
        assert (await enter(page, KEY)).status_code == 429
        assert (await page.get(link(gate))).status_code == 200, "links still open"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "same-origin", "origin": "null"}, 303),
        ({}, 303),
    ],
)
async def test_another_site_cannot_send_the_form(
    serve: Serve, headers: dict[str, str], status: int
) -> None:
    async with serve(key_holders=ENABLED) as gate, browser(gate) as page:
        assert (await enter(page, KEY, **headers)).status_code == status


@pytest.mark.parametrize("key", ["", "ü", "x" * 5000, "a\x00b"])
async def test_what_is_no_key_is_refused(serve: Serve, key: str) -> None:
    async with serve(key_holders=ENABLED) as gate, browser(gate) as page:
        answer = await enter(page, key)
    assert answer.status_code == 403
    assert 'role="alert"' in answer.text


async def test_names_are_shown_as_text(serve: Serve) -> None:
    customers = {"acme": {"keys": [{"id": "k_acme", "sha256": "0" * 64, "project": "a"}]}}
    async with serve(key_holders=ENABLED, customers=customers) as gate, browser(gate) as page:
        await gate.store.keys.add("1" * 64, "<b>&", "acme")
        await page.get(link(gate))
        shown = (await page.get("/account")).text
    assert "&lt;b&gt;&amp;" in shown
    assert "<b>" not in shown


async def test_nothing_about_the_page_is_logged(
    serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serve(key_holders=ENABLED) as gate, browser(gate) as page:
        path = link(gate)
        await page.get(path)
        await enter(page, BROKE_KEY)
        await enter(page, "sk-wrong")
    said = "".join(capfd.readouterr())
    assert path.partition("=")[2] not in said
    assert "sk-" not in said


async def test_without_the_page_the_rest_is_served(serve: Serve) -> None:
    async with serve(key_holders={**ENABLED, "page": False}) as gate:
        assert (await gate.client.get("/account")).status_code == 404
        assert (await gate.client.get("/v1/usage", headers=gate.headers)).status_code == 200
