"""A small business that runs: a gate, its exporter, and the console on the same ledger and store."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gateway.admin.service import build_admin
from gateway.app.roles import Resources
from gateway.app.sockets import bind
from gateway.app.stores import store_access
from gateway.domain.events import Event
from tests.support.console import ADMIN_TOKEN
from tests.support.delivering import delivered, exporting
from tests.support.gate import BROKE_KEY, PLAIN, Gate, running_gate
from tests.support.until import until

LIMITS = [
    {"measure": "spend", "window": "day", "ceiling": "5.00"},
    {"measure": "requests", "window": "minute", "ceiling": 1000},
]


@dataclass(slots=True)
class Shop:
    """The business with a browser's client that has signed in as an admin."""

    gate: Gate
    url: str
    browser: httpx.AsyncClient

    def events(self) -> list[Event]:
        """What the store has, oldest first. The outbox is trimmed behind it."""
        with store_access(self.gate.settings).open() as store:
            return [stored.event for stored in store.latest(100)]

    async def page(self, path: str, status: int = 200) -> str:
        """A page of the console."""
        answer = await self.browser.get(f"/console{path}")
        assert answer.status_code == status, answer.text
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        return answer.text

    async def submit(self, path: str, **fields: str) -> httpx.Response:
        """Fill in the form of a page, and send it."""
        form = await self.page(path)
        hidden = dict(re.findall(r'name="(csrf_token|idempotency_key)" value="([^"]+)"', form))
        return await self.post(path, {**hidden, **fields})

    async def post(self, path: str, fields: dict[str, str]) -> httpx.Response:
        """Send a form as a browser does, without following the redirect."""
        return await self.browser.post(
            f"/console{path}", data=fields, headers={"origin": self.url}, follow_redirects=False
        )

    async def csrf(self) -> str:
        """The session's CSRF token, as every page has it."""
        found = re.search(r'name="csrf_token" value="([^"]+)"', await self.page("/customers"))
        assert found is not None
        return found[1]


@asynccontextmanager
async def running_shop(
    tmp_path: Path, valkey_socket: Path, sim_url: str, **changes: Any
) -> AsyncIterator[Shop]:
    """Serve some requests and refuse one, deliver the events, and open the console."""
    sections: dict[str, Any] = {
        "admin": {"port": 0, "token": ADMIN_TOKEN},
        "console": {"port": 0},
        **changes,
    }
    async with (
        running_gate(tmp_path, valkey_socket, sim_url, **sections) as gate,
        exporting(gate),
        console_of(gate) as shop,
    ):
        for text in ("Hello", "sim: tokens=20", "Good bye"):
            assert (await gate.chat(text)).status_code == 200
        refused = await gate.post(
            "/v1/chat/completions",
            {"model": "small", "messages": [{"role": "user", "content": "Hello"}]},
            {"authorization": f"Bearer {BROKE_KEY}"},
        )
        assert refused.status_code == 402
        await delivered(gate)

        async def noted() -> bool:
            return "insufficient" in await shop.page("/requests?outcome=refused")

        await until(noted)
        yield shop


@asynccontextmanager
async def console_of(gate: Gate) -> AsyncIterator[Shop]:
    """The console of this gate, signed in."""
    settings = gate.settings
    url = settings.redis.connection_url()
    assert url is not None
    service = await build_admin(settings, Resources(url, str(settings.data_dir), "admin-0"))
    [sock] = bind("127.0.0.1", 0, 1, "the console")
    await service.start(sock)
    base = f"http://127.0.0.1:{sock.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=base, timeout=30, verify=PLAIN) as browser:
            shop = Shop(gate, base, browser)
            signed_in = await shop.post("/sign-in", {"secret": ADMIN_TOKEN})
            assert signed_in.status_code == 200, signed_in.text
            yield shop
    finally:
        await service.drain(1.0)
        sock.close()
