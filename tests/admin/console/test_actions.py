"""Changing things from the console: once, with a reason, by those who may."""

import asyncio

import pytest

from tests.support.until import until

from .shop import Shop
from .test_pages import text_of

CREDIT = {"amount": "12.50", "category": "paid", "expires": "", "name": "invoice 7"}


async def balance(shop: Shop) -> int:
    wallet = (await shop.gate.store.wallets.read(["acme"]))["acme"]
    return wallet.balance_nano(await shop.gate.store.now_ms())


async def test_a_top_up_is_made_once_and_said_on_the_next_page_alone(shop: Shop) -> None:
    before = await balance(shop)
    answer = await shop.submit("/customers/acme/top-up", **CREDIT, reason="paid by bank")
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/customers/acme")
    assert await balance(shop) == before + 12_500_000_000
    html = await shop.page("/customers/acme")
    assert "Granted acme 12.5 credits" in html
    assert "invoice 7" in html
    assert "Granted acme" not in await shop.page("/customers/acme")
    again = await shop.post(
        "/customers/acme/top-up",
        {**CREDIT, "reason": "r", "csrf_token": await shop.csrf(), "idempotency_key": "console-1"},
    )
    twice = await shop.post(
        "/customers/acme/top-up",
        {**CREDIT, "reason": "r", "csrf_token": await shop.csrf(), "idempotency_key": "console-1"},
    )
    assert again.status_code == twice.status_code == 303
    assert await balance(shop) == before + 25_000_000_000


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"reason": ""}, "Say why"),
        ({"amount": "0", "reason": "r"}, "Enter an amount above zero"),
        ({"amount": "-1", "reason": "r"}, "Enter credits as a decimal"),
        ({"amount": "a lot", "reason": "r"}, "Enter credits as a decimal"),
        ({"amount": "0.0000000001", "reason": "r"}, "Enter credits as a decimal"),
        ({"category": "gift", "reason": "r"}, "Choose what kind"),
        ({"expires": "1", "reason": "r"}, "Choose one of the expiries"),
        ({"amount": "9000000", "reason": "r"}, "would exceed"),
    ],
)
async def test_a_wrong_top_up_shows_its_mistake_and_grants_nothing(
    shop: Shop, wrong: dict[str, str], said: str
) -> None:
    before = await balance(shop)
    answer = await shop.submit("/customers/acme/top-up", **{**CREDIT, **wrong})
    assert answer.status_code == 422
    assert said in answer.text
    assert 'value="invoice 7"' in answer.text, "what was entered stays"
    assert await balance(shop) == before


async def test_without_its_csrf_token_a_form_changes_nothing(shop: Shop) -> None:
    before = await balance(shop)
    answer = await shop.post("/customers/acme/top-up", {**CREDIT, "reason": "r"})
    assert answer.status_code == 403
    assert await balance(shop) == before


async def test_a_frozen_customer_is_refused_until_it_is_thawed(shop: Shop) -> None:
    await shop.submit("/customers/acme/freeze", reason="fraud?", running="keep")
    assert (await shop.gate.chat()).status_code == 402
    said = text_of(await shop.page("/customers/acme"))
    assert "acme frozen" in said
    await shop.submit("/customers/acme/thaw", reason="it was not")
    assert (await shop.gate.chat()).status_code == 200

    async def audited() -> bool:
        log = text_of(await shop.page("/audit"))
        return "wallet.freeze" in log and "fraud?" in log and "wallet.thaw" in log

    await until(audited)


async def test_a_refund_gives_back_a_part_and_then_the_rest(shop: Shop) -> None:
    events = await asyncio.to_thread(shop.events)
    event = next(each for each in events if each.kind == "settle")
    before = await balance(shop)
    path = f"/refund?event={event.event_id}"
    await shop.submit(path, amount="0.000001", reason="late answer")
    await shop.submit(path, amount="", reason="the rest, too")
    assert await balance(shop) == before + event.amount_nano
    answer = await shop.submit(path, amount="", reason="again")
    assert answer.status_code == 422
    assert "nothing is left to refund" in answer.text


async def test_a_voided_grant_is_gone(shop: Shop) -> None:
    answer = await shop.submit("/customers/acme/grants/1/void", reason="charged back")
    assert answer.status_code == 303
    assert await balance(shop) == 0
    assert (await shop.gate.chat()).status_code == 402
    await shop.page("/customers/acme/grants/99/void", 404)


async def test_a_script_gets_the_form_alone_and_is_sent_on_by_a_header(shop: Shop) -> None:
    asking = {"hx-request": "true", "hx-target": "dialog-body"}
    answer = await shop.browser.get("/console/customers/acme/freeze", headers=asking)
    assert "<html" not in answer.text
    assert "hx-post" in answer.text
    sent = await shop.browser.post(
        "/console/customers/acme/freeze",
        data={"csrf_token": await shop.csrf(), "reason": "test", "running": "keep"},
        headers={**asking, "origin": shop.url},
    )
    assert (sent.status_code, sent.headers["hx-redirect"]) == (204, "/console/customers/acme")
