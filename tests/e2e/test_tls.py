"""Both ports behind TLS: official SDKs, probes, and a renewal under load that drops nothing.

The gate runs as its operator runs it, with `creditgate serve`.
"""

import asyncio
import json
import os
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest

from loadtest import gate
from loadtest.certificates import write_certificates
from tests.support.until import until
from tests.support.upstreams import Sim, sim

__all__ = ["sim"]

# The ledger is emptied first: others make one with fewer shards.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("valkey")]

HELLO: Any = [{"role": "user", "content": "hi\nsim: tokens=10"}]


class Secured:
    """A gate behind TLS, and what its clients trust."""

    def __init__(self, folder: Path, running: gate.Gate) -> None:
        self.folder = folder
        self.running = running

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.folder / "ca.pem")

    def log(self, event: str) -> list[dict[str, Any]]:
        lines = (self.running.folder / "gate.log").read_text().splitlines()
        parsed = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in parsed if line["event"] == event]

    def renew(self) -> None:
        """Put other certificates in place, signed by another authority, as a renewal does."""
        fresh = self.folder / "fresh"
        fresh.mkdir(exist_ok=True)
        for path in write_certificates(fresh):
            os.replace(path, self.folder / path.name)


@pytest.fixture
async def secured(tmp_path: Path, valkey_socket: Path, sim: Sim) -> AsyncIterator[Secured]:
    _, cert, key = write_certificates(tmp_path)
    tls = {"cert_file": str(cert), "key_file": str(key)}
    config = gate.write_config(
        tmp_path,
        sim.url,
        redis_url=f"unix://{valkey_socket}",
        changes={
            "listen": {"port": 0, "workers": 2, "tls": tls},
            "admin": {"port": 0, "tls": tls},
        },
    )
    serving = gate.serving(config)
    running = await asyncio.to_thread(serving.__enter__)
    try:
        yield Secured(tmp_path, running)
    finally:
        await asyncio.to_thread(serving.__exit__, None, None, None)


async def test_official_sdks_and_probes_work_over_tls(secured: Secured) -> None:
    assert secured.running.url.startswith("https://127.0.0.1:")
    async with httpx2.AsyncClient(verify=secured.trust()) as http:
        client = openai.AsyncOpenAI(
            base_url=f"{secured.running.url}/v1", api_key="sk-load", http_client=http
        )
        said = await client.chat.completions.create(model=gate.MODEL, messages=HELLO)
        assert said.usage is not None
        assert said.usage.completion_tokens == 10
        streamed = await client.chat.completions.create(
            model=gate.MODEL, messages=HELLO, stream=True
        )
        assert len([chunk async for chunk in streamed]) >= 10
        claude = anthropic.AsyncAnthropic(
            base_url=secured.running.url, api_key="sk-load", http_client=http
        )
        message = await claude.messages.create(model=gate.MODEL, max_tokens=20, messages=HELLO)
        assert message.usage.output_tokens == 10
        (line,) = secured.log("serving")
        answer = await http.get(f"https://{line['admin']}/readyz")
        assert answer.json() == {"status": "ready"}


async def test_a_renewal_under_load_reaches_both_ports_and_drops_no_request(
    secured: Secured,
) -> None:
    before = secured.trust()
    answered, renewed = 0, asyncio.Event()

    async def load() -> None:
        nonlocal answered
        async with httpx.AsyncClient(base_url=secured.running.url, verify=before) as http:
            while not renewed.is_set():
                answer = await http.post(
                    "/v1/chat/completions",
                    headers={"authorization": "Bearer sk-load"},
                    json={"model": gate.MODEL, "messages": HELLO},
                )
                assert answer.status_code == 200, answer.text
                answered += 1

    (line,) = secured.log("serving")
    running = [asyncio.create_task(load()) for _ in range(4)]
    await until(lambda: answered > 20)
    secured.renew()
    for address in (secured.running.url, f"https://{line['admin']}"):

        async def trusted(address: str = address) -> bool:
            """Say whether every worker shows the new certificate."""
            try:
                for _ in range(8):
                    async with httpx.AsyncClient(verify=secured.trust()) as http:
                        await http.get(f"{address}/healthz")
            except httpx.ConnectError:
                return False
            return True

        await until(trusted, within_s=20)
    seen = answered
    await until(lambda: answered > seen + 20)  # on the connections that were open
    renewed.set()
    await asyncio.gather(*running)
    assert not secured.log("needs_a_restart")


async def test_a_renewal_that_fails_is_refused_with_its_file_and_the_old_one_serves(
    secured: Secured,
) -> None:
    other = secured.folder / "other"
    other.mkdir()
    shutil.copy(write_certificates(other)[2], secured.folder / "server.key")
    await until(lambda: secured.log("configuration_problem"), within_s=20)
    problems = [line["problem"] for line in secured.log("configuration_problem")]
    told = "tls.key_file: the private key does not belong to the certificate"
    assert all(told in problem and "server.key" in problem for problem in problems)
    async with httpx.AsyncClient(verify=secured.trust()) as http:
        assert (await http.get(f"{secured.running.url}/healthz")).status_code == 200
