"""A failover behind one address: everything that is connected follows to the new primary.

The old one keeps its connections and becomes a replica of the new one, so nothing is cut: whoever
does not look stays with a copy that takes no writes.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from gateway.app import shards
from tests.ledger.forwarder import Forwarder
from tests.ledger.servers import OwnServer, free_port, server
from tests.support.delivering import delivered, exporting
from tests.support.gate import Gate, running_gate
from tests.support.until import until
from tests.support.upstreams import Sim

from .desk import Desk

WITHIN_S = 10
pytestmark = pytest.mark.usefixtures("quiet_logs")


@dataclass
class Pair:
    """Two servers; B is a replica of A at first."""

    a: OwnServer
    b: OwnServer
    a_port: int
    b_port: int
    forwarder: Forwarder

    async def promote_b(self) -> None:
        """As Sentinel does it: B is the primary, A its replica, and the address leads to B."""
        a, b = self._client(self.a), self._client(self.b)
        await a.execute_command("WAIT", 1, 2000)
        await b.execute_command("REPLICAOF", "NO", "ONE")
        await a.execute_command("REPLICAOF", "127.0.0.1", self.b_port)
        self.forwarder.target = self.b.socket
        await a.aclose()
        await b.aclose()

    async def follow(self) -> None:
        """Wait until B has all of A."""
        b = self._client(self.b)
        await b.execute_command("REPLICAOF", "127.0.0.1", self.a_port)

        async def linked() -> bool:
            info = await b.info("replication")
            return bool(info["master_link_status"] == "up")

        await until(linked)
        await b.aclose()

    @staticmethod
    def _client(own: OwnServer) -> Any:
        return redis.asyncio.Redis(unix_socket_path=str(own.socket))


@pytest.fixture
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    ports = free_port(), free_port()
    at_once = ("--repl-diskless-sync-delay", "0")  # no wait for more replicas
    with ExitStack() as held:
        a, b = (
            held.enter_context(server(tmp_path_factory.mktemp(name), *at_once, "--port", str(port)))
            for name, port in zip("ab", ports, strict=True)
        )
        yield Pair(a, b, *ports, Forwarder(a.socket))


@pytest.fixture
async def gate(
    tmp_path: Path, servers: Pair, sim: Sim, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gate]:
    monkeypatch.setattr(shards, "LOOK_EVERY_S", 0.2)
    await servers.follow()
    async with servers.forwarder as port:
        url = f"redis://127.0.0.1:{port}/0"
        async with (
            running_gate(tmp_path, servers.a.socket, sim.url, ledger_url=url) as running,
            exporting(running),
        ):
            yield running


async def test_after_a_failover_keys_freezes_and_requests_work_within_ten_seconds(
    gate: Gate, servers: Pair, tmp_path: Path
) -> None:
    desk = Desk(tmp_path / "gateway.yaml")
    for _ in range(5):
        assert (await gate.chat("hi\nsim: tokens=3")).status_code == 200
    await delivered(gate)
    await servers.promote_b()
    began = time.monotonic()
    made = await desk.ask("key", "create", "acme")
    headers = {"authorization": f"Bearer {made['key']}"}

    async def answers(status: int) -> None:
        async def does() -> bool:
            body = {
                "model": "small",
                "messages": [{"role": "user", "content": "hi\nsim: tokens=2"}],
            }
            return (await gate.post("/v1/chat/completions", body, headers)).status_code == status

        await until(does, WITHIN_S)

    await answers(200)
    assert "is frozen: " in (await desk.run("wallet", "freeze", "acme")).out
    await answers(402)
    assert "is active: " in (await desk.run("wallet", "thaw", "acme")).out
    await answers(200)
    assert time.monotonic() - began < WITHIN_S
    assert (await gate.client.get("/readyz")).json() == {"status": "ok"}
    await delivered(gate)
    verified = await desk.run("verify")
    assert verified.code == 0, verified.out


async def test_a_gate_that_only_reads_finds_the_new_primary_too(
    gate: Gate, servers: Pair, tmp_path: Path
) -> None:
    """Nothing is written by it, so no refusal tells it."""
    await servers.promote_b()
    admission = gate.service.ledger.admission
    await until(lambda: asyncio.sleep(0, admission.reconnects > 0), WITHIN_S)
    made = await Desk(tmp_path / "gateway.yaml").ask("key", "create", "acme")
    headers = {"authorization": f"Bearer {made['key']}"}
    assert (await gate.client.get("/v1/models", headers=headers)).status_code == 200
