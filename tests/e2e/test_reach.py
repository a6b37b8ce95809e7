"""A revoked key, a frozen wallet, a suspended and a restricted customer, under load on four worker
processes of two gates: each is refused within a second, and nobody else is.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import pytest
import yaml

from gateway.app.backend import open_backend
from gateway.operations.backend import Backend
from gateway.operations.customer_changes import (
    CustomerChange,
    NewCustomer,
    create_customer,
    suspend_customer,
    update_customer,
)
from gateway.operations.freeze import freeze
from gateway.operations.keys import NewKey, create_key, revoke_key
from gateway.settings import load_settings
from loadtest import gate
from tests.support.gate import PLAIN
from tests.support.upstreams import Sim, sim

__all__ = ["sim"]

PLANS: Final = {"plain": {"grants": [{"name": "start", "amount": "500.00"}]}}
CLIENTS: Final = 3
"""Of each customer, at each gate."""
REACHED_S: Final = 1.0
ARRIVED_S: Final = 0.3
PHASE_S: Final = 2.5

Change = Callable[[Backend], Awaitable[Any]]
CHANGES: Final[dict[str, tuple[Change, int]]] = {
    "revoked": (lambda backend: revoke_key(backend, "k_revoked"), 401),
    "frozen": (lambda backend: freeze(backend, "frozen", "a drill"), 402),
    "suspended": (lambda backend: suspend_customer(backend, "suspended"), 402),
    "restricted": (
        lambda backend: update_customer(
            backend, "restricted", CustomerChange(models=frozenset({"other"}))
        ),
        403,
    ),
}
"""By customer: what is changed, and the status from then on."""
BYSTANDER: Final = "bystander"


@dataclass(slots=True)
class Load:
    """Clients that send one request after the other, each on a new connection, so that any worker of
    the gate may get it. sent: when, by the monotonic clock, and the status, by customer"""

    sent: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    stopped: bool = False

    async def client(self, url: str, customer: str, secret: str) -> None:
        """One of them."""
        body = {"model": gate.MODEL, "messages": [{"role": "user", "content": "hi\nsim: tokens=4"}]}
        async with httpx.AsyncClient(
            base_url=url,
            timeout=30,
            verify=PLAIN,
            headers={"authorization": f"Bearer {secret}"},
            limits=httpx.Limits(max_keepalive_connections=0),
        ) as client:
            while not self.stopped:
                at_s = time.monotonic()
                answer = await client.post("/v1/chat/completions", json=body)
                self.sent.setdefault(customer, []).append((at_s, answer.status_code))
                await asyncio.sleep(0.05)


@asynccontextmanager
async def two_gates(folder: Path, socket: Path, url: str) -> AsyncIterator[list[gate.Gate]]:
    """Two gates of two workers on one ledger."""
    async with AsyncExitStack() as stack:
        running = []
        for name in ("one", "two"):
            (folder / name).mkdir()
            config = gate.write_config(
                folder / name,
                url,
                workers=2,
                redis_url=f"unix://{socket}",
                changes={"plans": PLANS},
            )
            document = yaml.safe_load(config.read_text())
            document["models"]["other"] = document["models"][gate.MODEL]
            config.write_text(yaml.safe_dump(document))
            serving = gate.serving(config)
            running.append(await asyncio.to_thread(serving.__enter__))
            stack.push_async_callback(asyncio.to_thread, serving.__exit__, None, None, None)
        yield running


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_every_worker_refuses_within_a_second_of_a_change(
    tmp_path: Path, valkey_socket: Path, valkey: Any, sim: Sim
) -> None:
    async with AsyncExitStack() as stack:
        gates = await stack.enter_async_context(two_gates(tmp_path, valkey_socket, sim.url))
        settings = load_settings(tmp_path / "one" / "gate.yaml")
        backend = await stack.enter_async_context(open_backend(settings))
        load, clients = Load(), list[asyncio.Task[None]]()
        began, changed = dict[str, float](), dict[str, float]()
        stack.callback(lambda: [each.cancel() for each in clients])
        for customer in (*CHANGES, BYSTANDER):
            await create_customer(backend, NewCustomer(customer, "plain"))
            key = await create_key(backend, NewKey(customer, key_id=f"k_{customer}"))
            for each in gates:
                for _ in range(CLIENTS):
                    client = load.client(each.url, customer, key.secret)
                    clients.append(asyncio.create_task(client))
        await asyncio.sleep(PHASE_S)
        for customer, (change, _) in CHANGES.items():
            began[customer] = time.monotonic()
            await change(backend)
            changed[customer] = time.monotonic()
        await asyncio.sleep(REACHED_S + PHASE_S)
        load.stopped = True
        await asyncio.gather(*clients)

        for customer, (_, refused) in CHANGES.items():
            before = [s for at, s in load.sent[customer] if at < began[customer] - ARRIVED_S]
            after = [s for at, s in load.sent[customer] if at > changed[customer] + REACHED_S]
            assert set(before) == {200}, customer
            assert set(after) == {refused}, customer
            assert min(len(before), len(after)) > 20, "each worker had its share of them"
        assert {status for _, status in load.sent[BYSTANDER]} == {200}
        for each in gates:
            lines = (each.folder / "gate.log").read_bytes().splitlines()
            logged = [orjson.loads(line) for line in lines if b'"event":"request"' in line]
            for customer in (*CHANGES, BYSTANDER):
                of = {line["process"] for line in logged if line["customer_id"] == customer}
                assert of == {"worker-0", "worker-1"}, customer
