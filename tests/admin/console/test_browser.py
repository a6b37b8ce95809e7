"""The console in Debian's Chromium: every page, with axe, by keyboard, on a phone, and without scripts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

from tests.support.console import ADMIN_TOKEN

from .shop import Shop
from .test_customers import create, secret_of

pytestmark = [pytest.mark.debian, pytest.mark.slow]

CHROMIUM = "/usr/bin/chromium"
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1360, "height": 900}


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        await launched.close()


@asynccontextmanager
async def signed_in(browser: Browser, shop: Shop, **options: Any) -> AsyncIterator[Page]:
    """A window of somebody who has signed in. Fails for what the browser complains about."""
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and "status of 422" not in message.text:
            complaints.append(message.text)

    context = await browser.new_context(**{"viewport": DESK, **options})
    page = await context.new_page()
    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(f"{shop.url}/console/sign-in")
    await page.fill("#secret", ADMIN_TOKEN)
    await page.press("#secret", "Enter")
    await page.wait_for_url("**/console/")
    yield page
    await context.close()
    assert not complaints


async def paths(shop: Shop) -> list[str]:
    """Every page, with a request that was served and one that was refused."""
    await create(shop)
    await secret_of(shop, "/customers/globex/new-key", expires="30", purpose="test")
    customer = await shop.page("/customers/acme")
    event_id = customer.split("/console/refund?event=")[1].split('"')[0]
    served_id = event_id.partition("%3A")[0].partition(":")[0]
    refused = await shop.page("/requests?outcome=refused")
    refused_id = refused.split("/console/requests/")[1][:32]
    fixed = ("", "customers", "customers/acme", "usage", "requests", "holds", "prices", "stores")
    ours = ("customers/globex", "customers/globex~test", "modes")
    forms = ("customers/acme/top-up", "customers/acme/freeze", f"refund?event={event_id}")
    more = ("new-customer", "modes/everything", "customers/globex/edit", "customers/globex/new-key")
    return [
        *fixed,
        *ours,
        "audit",
        f"requests/{served_id}",
        f"requests/{refused_id}",
        *forms,
        *more,
        "customers/globex/status/delete",
        "prices/apply",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_on_any_page(browser: Browser, shop: Shop, scheme: Any) -> None:
    async with signed_in(browser, shop, color_scheme=scheme) as page:
        for path in await paths(shop):
            await page.goto(f"{shop.url}/console/{path}")
            found = (await Axe().run(page)).response["violations"]
            assert [(each["id"], each["nodes"][0]["html"]) for each in found] == [], path


async def test_no_page_is_wider_than_a_phone(browser: Browser, shop: Shop) -> None:
    async with signed_in(browser, shop, viewport=PHONE) as page:
        for path in await paths(shop):
            await page.goto(f"{shop.url}/console/{path}")
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width <= PHONE["width"], path


async def test_a_customer_is_topped_up_by_keyboard_alone(browser: Browser, shop: Shop) -> None:
    async with signed_in(browser, shop) as page:
        await page.goto(f"{shop.url}/console/customers/acme")
        await page.focus("text=Top up")
        await page.keyboard.press("Enter")
        amount = page.locator("dialog #f-amount")
        await amount.wait_for()
        assert await amount.evaluate("field => field === document.activeElement")
        await page.keyboard.type("0")
        await page.focus("#f-reason")
        await page.keyboard.type("paid by bank")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await page.locator("dialog .problem").wait_for()
        assert "above zero" in await page.inner_text("dialog")
        assert await amount.evaluate("field => field === document.activeElement")
        await page.keyboard.press("Control+a")
        await page.keyboard.type("12.5")
        await page.keyboard.press("Enter")
        await page.locator(".toast").wait_for()
        assert "Granted acme 12.5 credits" in await page.inner_text(".toast")
        await page.focus("text=Freeze")
        await page.keyboard.press("Enter")
        await page.locator("dialog #f-reason").wait_for()
        await page.keyboard.press("Escape")
        assert not await page.locator("dialog[open]").count()


async def test_a_key_is_created_in_a_dialog_that_shows_its_secret_once(
    browser: Browser, shop: Shop
) -> None:
    async with signed_in(browser, shop) as page:
        await page.goto(f"{shop.url}/console/customers/acme")
        await page.click("text=New key")
        await page.fill("dialog #f-name", "backend")
        await page.fill("dialog #f-reason", "asked for")
        await page.click("dialog button[type=submit]")
        secret = await page.input_value("dialog #secret")
        assert secret.startswith("sk-cg-")
        await page.click("dialog >> text=Done")
        await page.locator("dialog[open]").wait_for(state="detached")
        assert secret not in await page.content()
        assert f"sk-cg-…{secret[-4:]}" in await page.inner_text("main")


async def test_now_is_live(browser: Browser, shop: Shop) -> None:
    async with signed_in(browser, shop) as page:
        await page.wait_for_selector("#live[data-state=live]")
        await page.wait_for_selector("#chart-requests .uplot")
        assert "No gate reports." in await page.inner_text("#gates")


async def test_typing_a_customer_narrows_the_list(browser: Browser, shop: Shop) -> None:
    async with signed_in(browser, shop) as page:
        await page.goto(f"{shop.url}/console/customers")
        await page.fill("#q", "br")
        await page.locator("#list a", has_text="acme").wait_for(state="detached")
        assert "broke" in await page.inner_text("#list")
        assert page.url.endswith("?q=br")


async def test_the_theme_is_kept_on_the_next_page(browser: Browser, shop: Shop) -> None:
    async with signed_in(browser, shop) as page:
        await page.click("text=Dark theme")
        before = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        await page.goto(f"{shop.url}/console/prices")
        assert await page.get_attribute("html", "data-theme") == "dark"
        assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == before


async def test_without_scripts_every_page_reads_and_a_form_works(
    browser: Browser, shop: Shop
) -> None:
    async with signed_in(browser, shop, java_script_enabled=False) as page:
        for path in await paths(shop):
            answer = await page.goto(f"{shop.url}/console/{path}")
            assert answer is not None
            assert answer.ok, path
            assert await page.locator("main h1").count() == 1
        await page.goto(f"{shop.url}/console/customers/acme")
        assert await page.locator(".chart svg.wide").is_visible()
        await page.click("text=Freeze")
        await page.fill("#f-reason", "test")
        await page.click("main button.danger")
        assert "acme is frozen" in await page.inner_text(".toast")
