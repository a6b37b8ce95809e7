"""Pictures of the console while the day goes on, by Debian's Chromium."""

import re
from pathlib import Path
from typing import Final

from loadtest.day.business import Business, DayFailed

CHROMIUM: Final = "/usr/bin/chromium"


def take(business: Business, paths: dict[str, str], folder: Path) -> None:
    """Sign in by a link, and take a picture of each page. paths: name of the file → path of the page.

    Needs Playwright and Chromium. Raises DayFailed.
    """
    from playwright.sync_api import sync_playwright

    said = business.run("console", "link")
    link = re.search(r"http\S+", said.replace("\n", ""))
    if link is None:
        raise DayFailed(f"no link in {said!r}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(link[0])
        page.wait_for_url("**/console/")
        for name, path in paths.items():
            page.goto(f"{business.console_url}{path}", wait_until="load")
            page.wait_for_timeout(4000)  # live figures and charts
            page.screenshot(path=folder / f"{name}.png")
        browser.close()
