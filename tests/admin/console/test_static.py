"""What browsers load: other people's code is what was published, and there is little of it."""

import gzip
import hashlib
import json
import re
from pathlib import Path

from gateway.admin.console.rendering import FOLDER

from .shop import Shop

STATIC = FOLDER / "static"
VENDOR = STATIC / "vendor"
SCRIPT_BYTES_MOST = 100_000


def scripts_of(html: str) -> list[Path]:
    found = [
        STATIC / path
        for path in re.findall(r'<script[^>]* src="/console/static/[0-9a-f]+/([^"]+)', html)
    ]
    for script in found:  # with the modules that modules import
        imported = re.findall(r'^import .* from "\./([^"]+)"', script.read_text(), re.MULTILINE)
        found += [path for name in imported if (path := script.parent / name) not in found]
    return found


def test_vendored_files_are_those_whose_hashes_are_recorded() -> None:
    recorded = json.loads((VENDOR / "hashes.json").read_text())
    found = {
        path.name: f"sha256-{hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in VENDOR.iterdir()
        if path.name != "hashes.json"
    }
    assert {name: each["hash"] for name, each in recorded.items()} == found
    for name, each in recorded.items():
        assert each["from"].startswith("npm:"), name
    assert {"htmx-LICENSE.txt", "uplot-LICENSE.txt"} <= recorded.keys()


def test_all_scripts_together_are_below_100_kb_on_the_wire() -> None:
    files = list(STATIC.rglob("*.js"))
    assert len(files) >= 5
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) < SCRIPT_BYTES_MOST / 2


async def test_no_page_loads_100_kb_of_script(shop: Shop) -> None:
    for path in (
        "/",
        "/customers",
        "/customers/acme",
        "/modes",
        "/requests",
        "/usage",
        "/stores",
        "/sign-in",
    ):
        scripts = scripts_of(await shop.page(path))
        assert scripts, path
        assert sum(path.stat().st_size for path in scripts) < SCRIPT_BYTES_MOST, path


async def test_static_files_are_kept_by_browsers_and_named_by_their_content(shop: Shop) -> None:
    html = await shop.page("/")
    for url in re.findall(r'(?:src|href)="(/console/static/[^"]+)"', html):
        answer = await shop.browser.get(url)
        assert answer.status_code == 200, url
        assert "immutable" in answer.headers["cache-control"], url


async def test_static_files_are_compressed_for_those_who_take_it(shop: Shop) -> None:
    html = await shop.page("/")
    [url] = re.findall(r'src="(/console/static/[^"]+uplot[^"]+js)"', html)
    for accepted, coding in (("gzip, br", "gzip"), ("br, gzip;q=0", None), ("identity", None)):
        async with shop.browser.stream("GET", url, headers={"accept-encoding": accepted}) as answer:
            sent = b"".join([part async for part in answer.aiter_raw()])
        assert answer.headers.get("content-encoding") == coding
        assert answer.headers["vary"] == "accept-encoding"
        whole = gzip.decompress(sent) if coding else sent
        assert whole == (VENDOR / url.rpartition("/")[2]).read_bytes()
        assert (len(sent) < len(whole)) is (coding == "gzip")
