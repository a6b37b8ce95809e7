"""`creditgate console run`: the console without a gate, as its own process."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.gate import gate_config, running_gate
from tests.support.until import until

ROOT = Path(__file__).parents[2]
TOKEN = "admin-token-of-the-tests"
UPSTREAM = "http://127.0.0.1:9"

pytestmark = pytest.mark.slow


class Alone:
    """One `creditgate console run`."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        config = folder / "console.yaml"
        config.write_text(yaml.safe_dump(sections))
        self._log = folder / "console.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "console", "run", "--config", str(config)],
                stdout=log,
                stderr=log,
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )

    def said(self) -> str:
        return self._log.read_text()

    def addresses(self) -> dict[str, str]:
        """Where it serves, by port; {} before it does."""
        lines = [json.loads(line) for line in self.said().splitlines() if line.startswith("{")]
        return next((line for line in lines if line["event"] == "serving"), {})

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 30)


@pytest.fixture
def sections(tmp_path: Path, valkey_socket: Path) -> dict[str, Any]:
    return gate_config(
        UPSTREAM,
        tmp_path / "console-data",
        f"unix://{valkey_socket}",
        admin={"port": 0, "token": TOKEN},
        console={"port": 0},
    )


@pytest.fixture
def alone(tmp_path: Path, sections: dict[str, Any]) -> Iterator[Alone]:
    running = Alone(tmp_path, **sections)
    yield running
    running.process.kill()
    running.process.wait()


async def test_it_serves_the_ledger_of_a_gate_that_runs_elsewhere(
    tmp_path: Path, valkey_socket: Path, alone: Alone
) -> None:
    async with running_gate(tmp_path, valkey_socket, UPSTREAM):
        await until(lambda: bool(alone.addresses()), within_s=60)
        at = alone.addresses()
        assert "gate" not in at
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"http://{at['admin']}/readyz")).status_code == 200
            url = f"http://{at['console']}/api/v1/wallets/acme"
            found = await http.get(url, headers={"authorization": f"Bearer {TOKEN}"})
            assert found.status_code == 200, found.text
            assert found.json()["balance"] == "10"
        assert await alone.stop() == 0, alone.said()


async def test_it_writes_no_accounts(valkey: Any, alone: Alone) -> None:
    await until(lambda: bool(alone.addresses()), within_s=60)
    assert await alone.stop() == 0
    assert await valkey.keys() == []


@pytest.mark.parametrize(
    ("section", "value", "reason"),
    [
        ("redis", "embedded", "set `redis.url`"),
        ("console", {"enabled": False}, "set `console.enabled: true`"),
    ],
)
async def test_it_refuses_to_run_where_it_would_be_of_no_use(
    tmp_path: Path, sections: dict[str, Any], section: str, value: Any, reason: str
) -> None:
    refused = Alone(tmp_path, **{**sections, section: value})
    assert await asyncio.to_thread(refused.process.wait, 60) == 1
    assert reason in refused.said()
