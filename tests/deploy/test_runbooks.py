"""Each runbook is rehearsed: its commands run, in order, against a gate in the situation they are for."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from loadtest import children, gate
from tests.support.until import until

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs/how-to/runbooks"
BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.slow


@dataclass
class Scene:
    """A gate with its folder, in which the commands run."""

    running: gate.Gate
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.running.folder

    @property
    def config(self) -> Path:
        return self.folder / "config/gateway.yaml"

    def sh(self, script: str) -> str:
        """Run a block as an operator pastes it; fails with its output."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env={**os.environ, **self.variables, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def rehearse(self, page: str) -> list[str]:
        """Run every block of a page; returns what each printed."""
        blocks = BLOCK.findall((PAGES / page).read_text())
        assert blocks, f"{page} has no commands"
        return [self.sh(block) for block in blocks]

    async def chat(self, content: str = "hi\nsim: tokens=10", key: str = "sk-load") -> Any:
        async with httpx.AsyncClient(base_url=self.running.url, timeout=60) as client:
            return await client.post(
                "/v1/chat/completions",
                headers={"authorization": f"Bearer {key}"},
                json={"model": gate.MODEL, "messages": [{"role": "user", "content": content}]},
            )

    async def charged(self) -> str:
        """Run a request to its event in the store; returns its id."""
        answer = await self.chat()
        assert answer.status_code == 200, answer.text
        request_id = str(answer.headers["x-request-id"])
        await until(lambda: request_id in self.sh("creditgate events tail --json"), within_s=30)
        return request_id


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with children.provider() as provider:
        (tmp_path / "config").mkdir()
        (tmp_path / "bin").mkdir()
        command = tmp_path / "bin/creditgate"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m gateway.cli "$@"\n')
        command.chmod(0o755)
        sinks = {
            "events": {"sqlite": {"path": str(tmp_path / "data/events.db")}},
            "files": {"parquet": {"url": f"file://{tmp_path}/files"}},
        }
        written = gate.write_config(
            tmp_path, provider.url, changes={"export": {"required": "events", "sinks": sinks}}
        )
        written = written.rename(tmp_path / "config/gateway.yaml")
        with gate.serving(written) as running:
            running = gate.Gate(running.url, running.pid, tmp_path)
            found = Scene(running, {"CUSTOMER": "customer-0", "MODEL": gate.MODEL})
            [line] = [
                json.loads(each)
                for each in (written.parent / "gate.log").read_text().splitlines()
                if '"serving"' in each
            ]
            found.variables["ADMIN"] = line["admin"]
            yield found


async def test_redis_failover(scene: Scene) -> None:
    await scene.charged()
    ledger = next(
        pid for name, pid in scene.running.processes().items() if name.startswith("valkey")
    )
    os.kill(ledger, signal.SIGKILL)

    async def serves() -> bool:
        return bool((await scene.chat()).status_code == 200)

    await until(serves, within_s=30)
    scene.variables["AMOUNT"] = "0.5"
    scene.rehearse("redis-failover.md")


async def test_provider_outage(scene: Scene) -> None:
    document = yaml.safe_load(scene.config.read_text())
    works = document["upstreams"]["sim"]["base_url"]
    document["upstreams"]["sim"]["base_url"] = "http://127.0.0.1:9"
    scene.config.write_text(yaml.safe_dump(document))

    async def fails() -> bool:
        return bool((await scene.chat()).status_code == 502)

    await until(fails, within_s=30)
    printed = scene.rehearse("provider-outage.md")
    assert 'kind="refused"' in printed[0]
    document["upstreams"]["sim"]["base_url"] = works
    scene.config.write_text(yaml.safe_dump(document))

    async def works_again() -> bool:
        return bool((await scene.chat()).status_code == 200)

    await until(works_again, within_s=30)


async def test_runaway_customer(scene: Scene) -> None:
    await scene.charged()
    blocks = BLOCK.findall((PAGES / "runaway-customer.md").read_text())
    assert "customer-0" in scene.sh(blocks[0])
    scene.sh(blocks[1])
    assert (await scene.chat()).status_code in (402, 403)
    scene.sh(blocks[2])
    assert (await scene.chat()).status_code == 200


async def test_wrong_price(scene: Scene) -> None:
    request_id = await scene.charged()
    told = json.loads(scene.sh(f"creditgate why {request_id} --json"))
    right = str(told)
    version = re.search(r"'price_version': '([^']+)'", right)
    assert version is not None
    document = yaml.safe_load(scene.config.read_text())
    document["models"][gate.MODEL]["prices"]["output"] = "9.00"
    scene.config.write_text(yaml.safe_dump(document))
    scene.sh("creditgate prices apply --reason 'a wrong price'")
    before = datetime.now(UTC) - timedelta(minutes=1)
    await asyncio.sleep(3)
    await scene.charged()
    scene.variables |= {
        "FROM": before.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "TO": (datetime.now(UTC) + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "PRICE_VERSION": version[1],
    }
    scene.rehearse("wrong-price.md")


async def test_leaked_key(scene: Scene) -> None:
    made = json.loads(scene.sh("creditgate key create customer-0 --json"))
    key = next(value for value in made.values() if str(value).startswith("sk-"))
    assert (await scene.chat(key=key)).status_code == 200
    identity = next(v for k, v in made.items() if k in ("id", "key_id"))
    scene.variables["KEY_ID"] = identity
    scene.rehearse("leaked-key.md")
    assert (await scene.chat(key=key)).status_code == 401


async def test_disputed_charge(scene: Scene) -> None:
    request_id = await scene.charged()
    told = scene.sh(f"creditgate why {request_id} --json")
    event = re.search(r'"event_id": ?"([^"]+)"', told)
    assert event is not None
    scene.variables |= {"REQUEST_ID": request_id, "EVENT_ID": event[1]}
    printed = scene.rehearse("disputed-charge.md")
    assert request_id in printed[0]


async def test_stuck_hold(scene: Scene) -> None:
    running = asyncio.create_task(scene.chat("hi\nsim: tokens=10 ttft_ms=20000"))
    found: list[Any] = []

    def held() -> bool:
        found[:] = [json.loads(scene.sh("creditgate holds list --json"))]
        return "customer-0" in str(found)

    await until(held, within_s=30)
    identity = re.search(r"'(?:reservation_id|request_id|id)': '([0-9a-f]{32})'", str(found))
    assert identity is not None, found
    scene.variables["REQUEST_ID"] = identity[1]
    scene.rehearse("stuck-hold.md")
    running.cancel()


async def test_sink_down(scene: Scene) -> None:
    await scene.charged()
    scene.variables["SINK"] = "files"
    printed = scene.rehearse("sink-down.md")
    assert "files" in printed[0]
