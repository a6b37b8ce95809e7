"""Editing the configuration of a gate that serves: what takes effect, what waits, what is refused.

The gate runs as its operator runs it, with `creditgate serve`, on a ledger that others may share.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from redis.asyncio import Redis

from gateway.ledger.accounts import AccountStore
from loadtest import gate
from tests.support.until import until
from tests.support.upstreams import Sim, sim

__all__ = ["sim"]

Document = dict[str, Any]


@dataclass(slots=True)
class Served:
    """A gate that serves, its file, and its ledger."""

    running: gate.Gate
    config: Path
    store: AccountStore

    def edit(self, change: Callable[[Document], None]) -> None:
        """Save the file with a change, as an editor does: a new file in place of the old."""
        document = yaml.safe_load(self.config.read_text())
        change(document)
        staged = self.config.with_suffix(".staged")
        staged.write_text(yaml.safe_dump(document))
        staged.rename(self.config)

    async def charge(self) -> str:
        """What a request of ten tokens costs now."""
        async with httpx.AsyncClient(base_url=self.running.url, timeout=30) as client:
            answer = await client.post(
                "/v1/chat/completions",
                headers={"authorization": "Bearer sk-load"},
                json={
                    "model": gate.MODEL,
                    "messages": [{"role": "user", "content": "hi\nsim: tokens=10"}],
                },
            )
        assert answer.status_code == 200, answer.text
        return answer.headers["x-credits-cost"]

    async def books(self) -> Any:
        """The price books that are in force or announced."""
        return (await self.store.books.schedule())[0]

    async def ready(self) -> Document:
        """What `/readyz` of the admin side says."""
        (line,) = self.log("serving")
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://{line['admin']}/readyz")
        document: Document = answer.json()
        return document

    def log(self, event: str) -> list[Document]:
        """The gate's log lines of one event."""
        lines = (self.running.folder / "gate.log").read_text().splitlines()
        parsed = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in parsed if line["event"] == event]

    async def logged(self, event: str, count: int = 1) -> None:
        """Wait until an event was logged so many times."""
        await until(lambda: len(self.log(event)) >= count, within_s=30)

    async def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """`creditgate WORDS`."""
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "gateway.cli", *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
async def served(
    tmp_path: Path, valkey: Redis, valkey_socket: Path, sim: Sim
) -> AsyncIterator[Served]:
    folder = tmp_path / "one"
    folder.mkdir()
    config = gate.write_config(folder, sim.url, redis_url=f"unix://{valkey_socket}")
    serving = gate.serving(config)
    running = await asyncio.to_thread(serving.__enter__)
    try:
        yield Served(running, config, AccountStore(valkey))
    finally:
        await asyncio.to_thread(serving.__exit__, None, None, None)


def set_output(price: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document["models"][gate.MODEL]["prices"]["output"] = price

    return change


@pytest.mark.slow
async def test_a_saved_price_is_pending_until_it_is_applied_or_applies_itself(
    served: Served,
) -> None:
    before, books = await served.charge(), await served.books()
    served.edit(set_output("200.00"))
    await served.logged("configuration_committed")
    await served.logged("prices_pending")
    assert await served.books() == books, "nothing is announced"
    assert await served.charge() == before
    assert (await served.ready())["notices"] == ["prices_pending"]
    (line,) = served.log("prices_pending")
    assert line["level"] == "warning"
    assert "creditgate prices apply" in line["detail"]

    checked = await served.run("check", "--live", str(served.config))
    assert checked.returncode == 0, checked.stderr
    for said in ("1 price pending against book 1", "2 /M", "200 /M"):
        assert said in checked.stdout

    served.edit(set_output("2.00"))
    await served.logged("prices_pending_cleared")
    assert "notices" not in await served.ready()
    assert await served.charge() == before

    served.edit(set_output("200.00"))
    await served.logged("prices_pending", 2)
    applied = await served.run("prices", "apply", "--config", str(served.config))
    assert applied.returncode == 0, applied.stderr
    await served.logged("prices_pending_cleared", 2)
    await until(lambda: _charges_other_than(served, before), within_s=30)

    # With auto_apply the file that was saved last is charged.
    def back(document: Document) -> None:
        set_output("2.00")(document)
        document["prices"] = {"auto_apply": True}

    served.edit(back)
    await until(lambda: _charges(served, before), within_s=30)
    served.edit(set_output("200.00"))
    await until(lambda: _charges_other_than(served, before), within_s=30)


async def _charges(served: Served, cost: str) -> bool:
    return await served.charge() == cost


async def _charges_other_than(served: Served, cost: str) -> bool:
    return not await _charges(served, cost)


@pytest.mark.slow
async def test_a_configuration_that_is_refused_changes_no_price_and_no_credit_limit(
    served: Served, tmp_path: Path
) -> None:
    """Whether a gate reloads it, or a second gate starts with it on the same ledger."""
    before, books = await served.charge(), await served.books()
    wallet = (await served.store.wallets.read(["customer-0"]))["customer-0"]

    async def unchanged() -> None:
        wallets = await served.store.wallets.read(["customer-0", "customer-1"])
        assert wallets.keys() == {"customer-0"}
        after = wallets["customer-0"]
        assert (after.credit_limit_nano, after.account_rev) == (0, wallet.account_rev)
        assert await served.books() == books
        assert await served.charge() == before

    good = served.config.read_text()
    served.edit(lambda document: _refused(document, served.config.parent))
    await served.logged("configuration_refused")
    await unchanged()
    served.config.write_text(good)
    await served.logged("configuration_unchanged")
    await unchanged()

    folder = tmp_path / "two"
    folder.mkdir()
    document = yaml.safe_load(good)
    document["data_dir"] = str(folder / "data")
    _refused(document, folder)
    config = folder / "gate.yaml"
    config.write_text(yaml.safe_dump(document))
    started = await served.run("serve", str(config))
    assert started.returncode == 1
    assert "upstreams.sim.tls: the certificates cannot be used" in started.stderr
    await unchanged()


def _refused(document: Document, folder: Path) -> None:
    """Change prices and customers, and break one thing that only a worker notices."""
    (folder / "ca.pem").write_text("no certificate")
    set_output("200.00")(document)
    document["prices"] = {"auto_apply": True}
    document["customers"]["customer-0"]["credit_limit"] = "50.00"
    document["customers"]["customer-1"] = {"grants": [{"name": "start", "amount": "1.00"}]}
    document["upstreams"]["sim"]["tls"] = {"ca_file": str(folder / "ca.pem")}
