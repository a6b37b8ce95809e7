"""Modes switched under load on four worker processes of two gates: each follows within a second, no
request is lost or charged twice, the books balance at every step, and no shadow charge is billed.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import pytest
import yaml

from gateway.app.backend import open_backend
from gateway.domain.customers import Mode, is_shadow
from gateway.domain.stores import RowFilter
from gateway.operations.backend import Backend
from gateway.operations.modes import ModeChange, change_mode
from gateway.operations.verify import verify
from gateway.settings import load_settings
from loadtest import gate
from loadtest.provider import Provider
from tests.support.billing_standins import OpenMeterStandIn
from tests.support.gate import PLAIN
from tests.support.until import until
from tests.support.upstreams import sim_provider

KEYS: Final = ("sk-rich", "sk-poor")
CLIENTS_PER_GATE: Final = 10
FOLLOWED_S: Final = 1.0
ARRIVED_S: Final = 0.3
PHASE_S: Final = 2.0
MODES: Final[tuple[Mode, ...]] = (
    "enforce", "shadow", "bypass", "shadow", "enforce", "bypass", "enforce",
)  # fmt: skip
"""Every switch from one mode to another, once."""


@dataclass(slots=True)
class Sent:
    """One request. at_s: when it was sent, by the monotonic clock"""

    at_s: float
    status: int
    request_id: str
    customer: int
    shows_credit: bool


@dataclass(slots=True)
class Load:
    """Clients that send one request after the other, until they are stopped."""

    urls: tuple[str, ...]
    sent: list[Sent] = field(default_factory=list)
    stopped: bool = False

    async def client(self, number: int) -> None:
        """One of them."""
        customer = number % 4 == 3
        headers = {"authorization": f"Bearer {KEYS[customer]}"}
        url = self.urls[number % len(self.urls)]
        content = "hi\nsim: tokens=8"
        body = {"model": gate.MODEL, "messages": [{"role": "user", "content": content}]}
        async with httpx.AsyncClient(base_url=url, timeout=30, verify=PLAIN) as client:
            while not self.stopped:
                at_s = time.monotonic()
                said = {**body, "stream": len(self.sent) % 3 == 0}
                answer = await client.post("/v1/chat/completions", json=said, headers=headers)
                self.sent.append(
                    Sent(
                        at_s,
                        answer.status_code,
                        answer.headers["x-request-id"],
                        customer,
                        "x-credits-remaining" in answer.headers,
                    )
                )
                await asyncio.sleep(0.02)


@asynccontextmanager
async def two_gates(folder: Path, socket: Path, url: str, hook: str) -> AsyncIterator[list[Any]]:
    """Two gates of two workers on one ledger; the exporter of one has the store."""
    async with AsyncExitStack() as stack:
        running = []
        billing = {"url": hook, "recipe": "openmeter", "key": "the-key"}
        for name in ("one", "two"):
            (folder / name).mkdir()
            config = gate.write_config(
                folder / name,
                url,
                workers=2,
                redis_url=f"unix://{socket}",
                keys=KEYS,
                credit="500.00",
                changes={"export": {"sinks": {"billing": {"http": billing}}}},
            )
            document = yaml.safe_load(config.read_text())
            document["customers"]["customer-1"]["grants"] = []
            config.write_text(yaml.safe_dump(document))
            serving = gate.serving(config)
            running.append(await asyncio.to_thread(serving.__enter__))
            stack.push_async_callback(asyncio.to_thread, serving.__exit__, None, None, None)
        yield running


async def clean(backend: Backend) -> None:
    """Every identity holds in ledger, outbox and store, while requests run."""
    verified = await verify(backend.audit, backend.outbox, backend.store)
    assert verified.drifts == ()


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_every_worker_follows_each_switch_within_a_second_under_load(
    tmp_path: Path, valkey_socket: Path, valkey: Any
) -> None:
    hook = OpenMeterStandIn()
    await hook.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(hook.stop)
        sim = await stack.enter_async_context(sim_provider(Provider(record=True)))
        folder, ledger = tmp_path, valkey_socket
        gates = await stack.enter_async_context(two_gates(folder, ledger, sim.url, hook.url))
        settings = load_settings(tmp_path / "one" / "gate.yaml")
        load = Load(tuple(each.url for each in gates))
        clients = [asyncio.create_task(load.client(n)) for n in range(2 * CLIENTS_PER_GATE)]
        phases: list[tuple[Mode, float, float]] = []
        since_s = time.monotonic()
        stack.callback(lambda: [each.cancel() for each in clients])
        async with open_backend(settings) as backend:
            await asyncio.sleep(PHASE_S)
            for before, mode in pairwise(MODES):
                phases.append((before, since_s, time.monotonic()))
                changed = await change_mode(backend, ModeChange(None, mode, "a drill"))
                assert (changed.mode, changed.changed) == (mode, True)
                since_s = time.monotonic()
                await asyncio.sleep(PHASE_S)
                await clean(backend)
            load.stopped = True
            await asyncio.gather(*clients)
            phases.append((MODES[-1], since_s, time.monotonic()))

            async def exported() -> bool:
                verified = await verify(backend.audit, backend.outbox, backend.store)
                return verified.clean and verified.holds == 0

            await until(exported, within_s=30)
            rows = [
                row
                for row in backend.store.rows(RowFilter())
                if row.kind in ("settle", "release", "expire")
            ]

        check_phases(load.sent, rows, phases)
        served = {row.request_id for row in sim.provider.served.rows}
        accepted = {each.request_id for each in load.sent if each.status == 200}
        assert served == accepted, "what was answered was served, and nothing else"
        assert sim.provider.served.posts == len(accepted), "each once"

        enforced = {row.event_id for row in rows if not is_shadow(row.customer_id)}
        enforced -= {row.event_id for row in rows if row.kind == "release"}
        await until(lambda: {key[1] for key in hook.taken} >= enforced, within_s=20)
        assert {key[1] for key in hook.taken} == enforced
        assert not [key for key in hook.taken if key[1] not in enforced]
        for each in gates:
            lines = (each.folder / "gate.log").read_bytes().splitlines()
            logged = [orjson.loads(line) for line in lines if b'"event":"request"' in line]
            modes = Counter((line["process"], line["decision"] == "bypass") for line in logged)
            assert len(modes) == 4, f"each worker has served in and out of bypass: {modes}"


def check_phases(
    sent: list[Sent], rows: list[Any], phases: list[tuple[Mode, float, float]]
) -> None:
    """Each request had the mode of its time, and the event of its mode."""
    by_request = Counter(row.request_id for row in rows)
    assert max(by_request.values()) == 1, "one end for each reservation"
    mode_of = {
        row.request_id: "shadow" if is_shadow(row.customer_id) else "enforce" for row in rows
    }
    for row in rows:
        assert orjson.loads(row.facts)["mode"] == mode_of[row.request_id]
    counted: Counter[str] = Counter()
    for mode, since_s, until_s in phases:
        for each in sent:
            # What was sent just before a switch may arrive after it.
            if not since_s + FOLLOWED_S < each.at_s < until_s - ARRIVED_S:
                continue
            counted[mode] += 1
            if mode == "enforce":
                assert each.status == (402 if each.customer else 200)
                assert each.status == 402 or each.shows_credit
                assert mode_of.get(each.request_id) == (None if each.customer else "enforce")
            else:
                assert (each.status, each.shows_credit) == (200, False)
                assert mode_of.get(each.request_id) == (None if mode == "bypass" else "shadow")
    assert min(counted[mode] for mode in MODES) > 20, counted
