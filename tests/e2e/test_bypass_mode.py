"""Bypass mode through a complete gate: authenticate, forward, relay; the ledger is not asked."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.app.backend import open_backend
from gateway.domain.modes import SetMode
from gateway.flow import authentication
from gateway.operations.customer_changes import NewCustomer, create_customer
from gateway.operations.keys import NewKey, create_key
from tests.ledger.servers import OwnServer, server
from tests.support.gate import BROKE_KEY, Gate, Serve, digest, running_gate
from tests.support.until import until
from tests.support.upstreams import Sim

QUICK = "hi\nsim: tokens=3"


async def switch(gate: Gate, mode: Any, customer_id: str | None = None) -> None:
    """Set a mode and wait until the worker serves by it."""
    await gate.store.modes.set(customer_id, SetMode(mode, "s", 1, "", ""))
    flow = gate.service.flow
    await until(lambda: flow.catalog.modes.of(customer_id or "acme")[0] == mode, within_s=2)


async def test_charges_nothing_and_asks_the_ledger_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(mode="bypass") as gate:

        async def never(*_: object) -> None:
            raise AssertionError("the ledger was asked")

        for runner in (gate.service.ledger.admission, gate.service.ledger.settlement):
            monkeypatch.setattr(runner, "run", never)
        gate.headers["authorization"] = f"Bearer {BROKE_KEY}"
        answer = await gate.chat(QUICK, max_tokens=1_000_000)
        stream = await gate.chat(QUICK, stream=True)
        large = await gate.chat("x" * 100_000)
        models = await gate.client.get("/v1/models", headers=gate.headers)
        assert [each.status_code for each in (answer, stream, large, models)] == [200] * 4
        for each in (answer, stream, large):
            assert not [name for name in each.headers if name.startswith("x-credits")]
        assert '"usage"' not in stream.text, "the client did not ask for it"
        assert stream.text.rstrip().endswith("[DONE]")
        assert not gate.live
        counted = gate.service.records.metrics.decisions.labels("bypass", "")
        assert counted.value == 3
        assert await gate.events("broke") == []


async def test_still_authenticates(serve: Serve) -> None:
    async with serve(mode="bypass") as gate:
        gate.headers["authorization"] = "Bearer nobody"
        assert (await gate.chat(QUICK)).status_code == 401


async def test_reaches_one_customer_alone(serve: Serve) -> None:
    async with serve() as gate:
        await switch(gate, "bypass", "broke")
        assert "x-credits-remaining" in (await gate.chat(QUICK)).headers
        gate.headers["authorization"] = f"Bearer {BROKE_KEY}"
        assert (await gate.chat(QUICK)).status_code == 200
        await switch(gate, "enforce", "broke")
        assert (await gate.chat(QUICK)).status_code == 402


async def test_a_key_that_is_revoked_in_bypass_is_refused_within_a_second(serve: Serve) -> None:
    async with serve(mode="bypass") as gate:
        await gate.store.keys.add(digest("sk-made"), "k_made", "acme")
        gate.headers["authorization"] = "Bearer sk-made"
        assert (await gate.chat(QUICK)).status_code == 200
        await gate.store.keys.revoke(gate.ledger.wallets, "k_made")

        async def refused() -> bool:
            return (await gate.chat(QUICK)).status_code == 401

        await until(refused, within_s=1.5)


async def test_a_key_is_refused_that_was_revoked_when_its_account_was_not_followed_any_more(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "MAX_LOOKED_UP", 2)
    async with serve(mode="bypass", plans={"free": {}}) as gate:
        async with open_backend(gate.settings) as backend:
            keys = {}
            for name in ("first", "other", "another"):
                await create_customer(backend, NewCustomer(name, "free"))
                keys[name] = (await create_key(backend, NewKey(name, key_id=f"k_{name}"))).secret
        for name in keys:
            gate.headers["authorization"] = f"Bearer {keys[name]}"
            assert (await gate.chat(QUICK)).status_code == 200
        await gate.store.keys.revoke(gate.ledger.wallets, "k_first")
        gate.headers["authorization"] = f"Bearer {keys['first']}"

        async def refused() -> bool:
            return (await gate.chat(QUICK)).status_code == 401

        await until(refused, within_s=1.5)


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """A server of this test's own, to be stopped."""
    with server(tmp_path_factory.mktemp("own")) as started:
        yield started
        os.kill(started.process.pid, signal.SIGCONT)


async def test_works_while_the_ledger_is_down(tmp_path: Path, own: OwnServer, sim: Sim) -> None:
    serving = running_gate(tmp_path, own.socket, sim.url, ledger_timeout_s=1.0)
    async with serving as gate:
        await switch(gate, "bypass")
        assert (await gate.chat(QUICK)).status_code == 200
        os.kill(own.process.pid, signal.SIGSTOP)
        try:
            for _ in range(4):
                answer = await asyncio.wait_for(gate.chat(QUICK), 5)
                assert answer.status_code == 200
                await asyncio.sleep(0.5)
            assert (await gate.client.get("/readyz")).status_code == 200
        finally:
            os.kill(own.process.pid, signal.SIGCONT)
        await switch(gate, "enforce")
        await until(lambda: _enforced(gate))


async def _enforced(gate: Gate) -> bool:
    return "x-credits-remaining" in (await gate.chat(QUICK)).headers
