"""Customers and keys of the ledger, and modes, from creation to deletion."""

import re

import pytest

from tests.support.until import until

from .shop import Shop
from .test_pages import text_of

NEW = {"name": "Globex", "email": "", "plan": "", "credit_limit": "1", "tags": "region = eu"}


async def create(shop: Shop, customer_id: str = "globex", **changes: str) -> int:
    fields = {"customer_id": customer_id, **NEW, "reason": "signed up", **changes}
    return (await shop.submit("/new-customer", **fields)).status_code


async def secret_of(shop: Shop, path: str, **fields: str) -> str:
    answer = await shop.submit(path, reason="test", **fields)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    found = re.search(r'value="(sk-[^"]+)"', answer.text)
    assert found is not None
    return found[1]


async def status(shop: Shop, secret: str) -> int:
    body = {"model": "small", "messages": [{"role": "user", "content": "Hello"}]}
    sent = {"authorization": f"Bearer {secret}"}
    return (await shop.gate.post("/v1/chat/completions", body, sent)).status_code


async def test_a_customer_is_created_with_a_key_that_works_at_once(shop: Shop) -> None:
    assert await create(shop) == 303
    said = text_of(await shop.page("/customers/globex"))
    for part in ("globex Globex active enforce", "Credit limit 1.00", "region eu", "No keys."):
        assert part in said
    secret = await secret_of(shop, "/customers/globex/new-key", name="backend", expires="30")
    assert await status(shop, secret) == 200
    html = await shop.page("/customers/globex")
    assert secret not in html
    assert f"backend sk-cg-…{secret[-4:]}" in text_of(html)
    assert await create(shop) == 422, "an id is used once"


async def test_changes_that_move_no_credit_are_no_changes_of_the_balance(shop: Shop) -> None:
    await create(shop)
    await shop.submit(
        "/customers/globex/top-up", amount="3", category="paid", expires="", reason="r"
    )
    for name in ("one", "two"):
        await secret_of(shop, "/customers/globex/new-key", name=name, expires="")

    async def stored() -> bool:
        return "key.create" in text_of(await shop.page("/audit?customer=globex"))

    await until(stored)
    said = text_of(await shop.page("/customers/globex"))
    changes = said[said.index("Latest balance changes") : said.index("Nothing is held.")]
    assert "+3.00 3.00" in changes
    assert "audit" not in changes


async def test_a_form_that_is_sent_twice_creates_one_customer_and_one_key(shop: Shop) -> None:
    form = {**NEW, "reason": "r", "csrf_token": await shop.csrf(), "idempotency_key": "console-9"}
    first = await shop.post("/new-customer", form)
    assert (await shop.post("/new-customer", form)).status_code == 422
    path = first.headers["location"].removeprefix("/console")
    assert re.fullmatch(r"/customers/cus_[0-9a-f]{20}", path)
    assert "3 customers in all" in text_of(await shop.page("/customers"))
    key = {"expires": "", "reason": "r", "csrf_token": await shop.csrf(), "idempotency_key": "k"}
    assert (await shop.post(f"{path}/new-key", key)).status_code == 200
    again = await shop.post(f"{path}/new-key", key)
    assert again.status_code == 422
    assert "already" in again.text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"reason": ""}, "Say why"),
        ({"plan": "gold"}, "Choose one of the configured plans"),
        ({"credit_limit": "much"}, "Enter credits as a decimal"),
        ({"billing_day": "32"}, "from 1 to 31"),
        ({"tags": "region"}, "name = value"),
        ({"tags": "a = 1\na = 2"}, "twice"),
        ({"models": "none-such"}, "no model none-such"),
        ({"customer_id": "no spaces"}, "cannot be the id"),
        ({"customer_id": "acme"}, "in the configuration already"),
    ],
)
async def test_a_wrong_customer_shows_its_mistake_and_is_not_created(
    shop: Shop, wrong: dict[str, str], said: str
) -> None:
    answer = await shop.submit(
        "/new-customer", **{"customer_id": "globex", **NEW, "reason": "r", **wrong}
    )
    assert answer.status_code == 422
    assert said in answer.text.replace("&#39;", "'")
    assert "2 customers in all" in text_of(await shop.page("/customers"))


async def test_what_is_edited_is_kept_and_the_rest_stays(shop: Shop) -> None:
    await create(shop)
    form = await shop.page("/customers/globex/edit")
    assert "region = eu" in form
    edited = {**NEW, "name": "Globex Ltd", "tags": "", "credit_limit": "2.5", "reason": "renamed"}
    assert (await shop.submit("/customers/globex/edit", **edited)).status_code == 303
    said = text_of(await shop.page("/customers/globex"))
    assert "Globex Ltd" in said
    assert "Credit limit 2.50" in said
    assert "region" not in said


async def test_a_customer_of_the_configuration_is_not_changed_here(shop: Shop) -> None:
    html = await shop.page("/customers/acme")
    assert "/edit" not in html
    assert "/status/" not in html
    answer = await shop.submit("/customers/acme/plan", plan="", reason="r")
    assert answer.status_code == 422
    assert "kept in the configuration" in answer.text


async def test_suspending_refuses_resuming_admits_and_deleting_ends_the_keys(shop: Shop) -> None:
    await create(shop)
    secret = await secret_of(shop, "/customers/globex/new-key", expires="")
    await shop.submit("/customers/globex/status/suspend", reason="unpaid")
    assert await status(shop, secret) in (402, 403)
    assert "globex Globex suspended" in text_of(await shop.page("/customers/globex"))
    await shop.submit("/customers/globex/status/resume", reason="paid")
    assert await status(shop, secret) == 200
    path = "/customers/globex/status/delete"
    assert (await shop.submit(path, reason="left", confirm="acme")).status_code == 422
    assert (await shop.submit(path, reason="left", confirm="globex")).status_code == 303
    assert await status(shop, secret) in (401, 402, 403)
    said = text_of(await shop.page("/customers/globex"))
    assert "deleted" in said
    assert "Globex" not in said
    assert "New key" not in said


async def test_a_rotated_key_gives_way_to_one_that_is_shown_once(shop: Shop) -> None:
    await create(shop)
    old = await secret_of(shop, "/customers/globex/new-key", expires="", name="backend")
    [key_id] = re.findall(r"/keys/(k_\w+)/rotate", await shop.page("/customers/globex"))
    new = await secret_of(shop, f"/customers/globex/keys/{key_id}/rotate", grace="0")
    assert await status(shop, new) == 200
    assert await status(shop, old) == 401
    said = text_of(await shop.page("/customers/globex"))
    assert said.count("backend") == 2
    assert "revoked" in said
    await shop.page(f"/customers/acme/keys/{key_id}/rotate", 404)


async def test_a_test_key_has_a_wallet_that_has_a_page(shop: Shop) -> None:
    await create(shop)
    secret = await secret_of(shop, "/customers/globex/new-key", expires="", purpose="test")
    assert secret.startswith("sk-test-")
    assert '"/console/customers/globex~test"' in await shop.page("/customers/globex")
    said = text_of(await shop.page("/customers/globex~test"))
    assert "The test wallet of globex" in said
    assert f"sk-test-…{secret[-4:]}" in said
    await shop.submit(
        "/customers/globex~test/top-up", amount="1", category="paid", expires="", reason="r"
    )
    assert await status(shop, secret) == 200


async def test_a_customer_in_shadow_mode_is_served_without_credit(shop: Shop) -> None:
    await create(shop, credit_limit="")
    secret = await secret_of(shop, "/customers/globex/new-key", expires="")
    assert await status(shop, secret) == 402
    answer = await shop.submit("/customers/globex/mode", mode="shadow", reason="trial")
    assert answer.status_code == 303
    said = text_of(await shop.page("/customers/globex"))
    assert "globex Globex active shadow" in said
    assert "Nothing is refused and nobody is charged." in said
    assert "The shadow wallet of globex" in text_of(await shop.page("/customers/globex~shadow"))
    assert "globex shadow" in text_of(await shop.page("/modes"))
    await shop.submit("/customers/globex/mode", mode="configured", reason="over")
    assert "Nothing is refused" not in text_of(await shop.page("/customers/globex"))


async def test_everything_changes_its_mode_only_when_that_is_confirmed(shop: Shop) -> None:
    path = "/modes/everything"
    answer = await shop.submit(path, mode="bypass", reason="ledger repair")
    assert answer.status_code == 422
    assert "Confirm that no customer is charged" in answer.text
    assert "Everything enforce" in text_of(await shop.page("/modes"))
    await shop.submit(path, mode="bypass", reason="ledger repair", confirm="yes")
    said = text_of(await shop.page("/modes"))
    assert "Everything bypass" in said
    assert "ledger repair" in said
    assert "bypass" in text_of(await shop.page("/"))
    assert (await shop.submit(path, mode="configured", reason="done")).status_code == 303
    assert "Everything enforce" in text_of(await shop.page("/modes"))
