"""The ledger's server answers, and refuses: the client gets the server's own word, `/readyz` a reason."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from gateway.app import ledger_health
from tests.ledger.servers import OwnServer, server
from tests.support.gate import KEY, Gate, digest, running_gate
from tests.support.until import until
from tests.support.upstreams import Sim


@pytest.fixture
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnServer]:
    with server(tmp_path_factory.mktemp("own")) as started:
        yield started


@pytest.fixture
async def admin(own: OwnServer) -> AsyncIterator[Any]:
    client = redis.asyncio.Redis(unix_socket_path=str(own.socket))
    yield client
    await client.aclose()


@pytest.fixture
async def gate(
    tmp_path: Path, own: OwnServer, sim: Sim, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gate]:
    monkeypatch.setattr(ledger_health, "LOOK_EVERY_S", 0.05)
    async with running_gate(tmp_path, own.socket, sim.url) as running:
        yield running


async def chat(gate: Gate) -> tuple[int, str]:
    answer = await gate.chat("hi\nsim: tokens=3")
    return answer.status_code, answer.json().get("error", {}).get("message", "")


async def readiness(gate: Gate) -> str:
    status: str = (await gate.client.get("/readyz")).json()["status"]
    return status


async def becomes(gate: Gate, wanted: str) -> None:
    async def is_so() -> bool:
        return await readiness(gate) == wanted

    await until(is_so)


async def test_eviction_that_is_switched_on_while_it_runs_stops_admission(
    gate: Gate, admin: Any
) -> None:
    assert (await chat(gate))[0] == 200
    await admin.config_set("maxmemory-policy", "allkeys-lru")
    await becomes(gate, "ledger_evicts")
    assert (await chat(gate))[0] == 503
    await admin.config_set("maxmemory-policy", "noeviction")
    await becomes(gate, "ok")
    assert (await chat(gate))[0] == 200


async def test_memory_that_runs_out_is_said_as_such(gate: Gate, admin: Any) -> None:
    assert (await chat(gate))[0] == 200
    await admin.config_set("maxmemory", "1mb")
    status, message = await chat(gate)
    assert (status, "(OOM)" in message) == (503, True)
    await becomes(gate, "ledger_out_of_memory")
    await admin.config_set("maxmemory", "0")
    assert (await chat(gate))[0] == 200
    await becomes(gate, "ok")


async def test_a_right_that_is_taken_away_is_said_as_such(gate: Gate, admin: Any) -> None:
    await admin.execute_command("ACL", "SETUSER", "default", "-evalsha")
    status, message = await chat(gate)
    assert (status, "(NOPERM)" in message) == (503, True)
    assert await readiness(gate) == "ledger_not_permitted"
    await admin.execute_command("ACL", "SETUSER", "default", "+evalsha")
    assert (await chat(gate))[0] == 200
    assert await readiness(gate) == "ok"


async def test_a_clock_that_is_set_back_hides_no_grant(
    tmp_path: Path, own: OwnServer, sim: Sim
) -> None:
    """The grant is made two hours ahead of the clock that the requests meet."""
    customers = {"acme": {"keys": [{"id": "k", "sha256": digest(KEY)}]}}
    async with running_gate(tmp_path, own.socket, sim.url, customers=customers) as gate:
        ahead = gate.ledger_at(await gate.store.now_ms() + 7_200_000)
        assert (await chat(gate))[0] == 402
        await ahead.grant("acme", "g1", 1_000_000_000)
        await ahead.adjust("acme", "a1", 1_000_000_000, corrects=None, reason="test")
        await ahead.allowance("acme", "monthly", 1_000_000_000)
        assert (await chat(gate))[0] == 200
        said = (await gate.client.get("/v1/credits", headers=gate.headers)).json()["data"]
        assert said["available"].startswith("2.99")
