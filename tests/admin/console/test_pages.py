"""Each page shows what the ledger and the store have, without scripts."""

import re
from html import unescape

import pytest

from gateway.domain.money import format_amount
from tests.support.until import until

from .shop import Shop

PAGES = (
    *("/", "/customers", "/customers/acme", "/usage", "/requests", "/holds", "/prices", "/stores"),
    *("/audit", "/modes"),
)


def text_of(html: str) -> str:
    """What a page says: its main part without tags."""
    main = html[html.index("<main") : html.index("</main>")]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", main)).split())


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_needs_a_signed_in_person(shop: Shop, path: str) -> None:
    shop.browser.cookies.clear()
    answer = await shop.browser.get(f"/console{path}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in")


async def test_every_page_marks_itself_in_the_navigation_and_has_one_heading(shop: Shop) -> None:
    for path in PAGES:
        html = await shop.page(path)
        assert html.count("<h1") == 1, path
        assert html.count('aria-current="page"') == 1, path
        assert " style=" not in html, "a style attribute is against the policy"
        assert " on" not in re.sub(r">[^<]*<", "><", html).replace(" on-", ""), path


async def test_customers_are_listed_with_their_balances(shop: Shop) -> None:
    said = text_of(await shop.page("/customers"))
    balance = format_amount(10 * 10**9 - await shop.gate.settled_nano())
    assert f"acme active {balance}" in said
    assert "2 customers in all" in said
    assert "broke no credit 0.00" in said
    assert "acme" not in text_of(await shop.page("/customers?q=br"))
    none = text_of(await shop.page("/customers?q=nobody"))
    assert "No customer's id begins with “nobody”" in none


async def test_a_customers_page_has_its_money_keys_and_latest_changes(shop: Shop) -> None:
    said = text_of(await shop.page("/customers/acme"))
    for part in ("Top up", "Freeze", "1 · start", "k_acme", "No limits.", "Nothing is held."):
        assert part in said
    assert said.count("Refund") == 3
    assert await shop.page("/customers/nobody", 404)


async def test_a_refused_request_says_what_would_have_let_it_through(shop: Shop) -> None:
    listed = await shop.page("/requests?outcome=refused")
    [request_id] = set(re.findall(r"/console/requests/([0-9a-f]{32})", listed))
    said = text_of(await shop.page(f"/requests/{request_id}"))
    assert "Refused: insufficient credits" in said
    assert "more credits: a top-up, or a higher credit limit." in said
    assert "Top up broke" in said


async def test_a_served_request_is_a_timeline_down_to_its_delivery(shop: Shop) -> None:
    listed = await shop.page("/requests?customer=acme")
    request_id = re.findall(r"/console/requests/([0-9a-f]{32})", listed)[0]
    said = text_of(await shop.page(f"/requests/{request_id}"))
    steps = ("credits held", "Answered by the upstream", "credits charged", "events: delivered")
    places = [said.index(step) for step in steps]
    assert places == sorted(places)
    assert "as the provider reported it" in said
    assert "From start:" in said
    assert "do not add up" not in said


async def test_requests_are_found_by_key_model_status_and_time(shop: Shop) -> None:
    async def found(query: str) -> int:
        html = await shop.page(f"/requests?{query}")
        return len(set(re.findall(r"/console/requests/([0-9a-f]{32})", html)))

    assert await found("") == 4
    assert await found("key=k_acme") == 3
    assert await found("model=dear") == 0
    assert await found("status=402") == 1
    assert await found("status=200&model=small") == 3
    assert await found("outcome=settle&until=2020-01-01T00:00") == 0
    assert await found("flag=usage_missing") == 0
    answer = await shop.browser.get("/console/requests?q=abc", follow_redirects=False)
    assert answer.headers["location"] == "/console/requests/abc"
    assert "Nothing is known" in await shop.page("/requests/abc", 404)
    assert (await shop.browser.get("/console/requests?status=x")).status_code == 400


async def test_usage_sums_what_was_sold_and_comes_as_csv(shop: Shop) -> None:
    said = text_of(await shop.page("/usage?by=customer"))
    charged = await shop.gate.settled_nano()
    assert "Total 3 " in said
    answer = await shop.browser.get("/console/usage.csv?by=model")
    assert answer.headers["content-type"].startswith("text/csv")
    head, line = answer.text.split("\r\n")[:2]
    row = dict(zip(head.split(","), line.split(","), strict=True))
    assert (row["model"], row["requests"]) == ("small", "3")
    assert row["charged"] == format_amount(charged)


async def test_prices_in_force_are_shown_with_their_history(shop: Shop) -> None:
    said = text_of(await shop.page("/prices"))
    assert "book 1 in force" in said
    assert "input 1 /M" in said
    assert "Apply pending prices" not in said


async def test_stores_show_that_everything_is_delivered(shop: Shop) -> None:
    said = text_of(await shop.page("/stores"))
    assert "events required store 0 0" in said
    assert "every event is stored" in said


async def test_verify_runs_behind_its_page(shop: Shop) -> None:
    started = await shop.post("/stores/verify", {"csrf_token": await shop.csrf()})
    assert started.status_code == 303

    async def ended() -> bool:
        return "by admin.token" in text_of(await shop.page("/stores"))

    await until(ended)
    assert "clean" in text_of(await shop.page("/stores"))


async def test_a_plan_of_the_same_prices_changes_nothing(shop: Shop) -> None:
    await shop.post("/prices/plan", {"csrf_token": await shop.csrf()})

    async def ended() -> bool:
        return "planned" in text_of(await shop.page("/prices"))

    await until(ended)
    assert "All 1 3" in text_of(await shop.page("/prices"))


async def test_the_theme_is_chosen_without_scripts_and_only_leads_back_here(shop: Shop) -> None:
    answer = await shop.browser.get(
        "/console/theme?to=dark&back=/console/prices", follow_redirects=False
    )
    assert answer.headers["location"] == "/console/prices"
    assert 'data-theme="dark"' in await shop.page("/prices")
    for back in ("//evil.example", "https://evil.example/console/", "/console//evil.example"):
        answer = await shop.browser.get(
            "/console/theme", params={"to": "dark", "back": back}, follow_redirects=False
        )
        assert answer.headers["location"] == "/console/", back
