"""A ledger that comes back with an older copy while requests run: the gate repairs it, and nobody is asked."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from structlog.testing import capture_logs

from gateway.app import repairing, shards
from gateway.app.exporting import ExportService
from gateway.app.repairing import Repairer, assemble_repairer
from gateway.app.tasks import end_tasks
from gateway.exporter.main import Exporter
from gateway.ledger.audit import Audit
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.scripts import Script
from gateway.operations.verify import verify
from tests.ledger.servers import OwnServer, server
from tests.support.delivering import delivered, exporting, stored
from tests.support.gate import SHARDS, Gate, running_gate
from tests.support.stores import events_path, sqlite_access
from tests.support.until import until
from tests.support.upstreams import Sim, sim
from tests.unit.cli.desk import Desk

__all__ = ["sim"]

AOF = ("--appendonly", "yes", "--appendfsync", "always")
SOON_S = 30
"""What the promise allows: from when the store has caught up."""


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """A server whose files can be put back."""
    with server(tmp_path_factory.mktemp("own"), *AOF) as started:
        yield started


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    monkeypatch.setattr(shards, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(repairing, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(repairing, "LIST_EVERY_S", 0.1)
    monkeypatch.setattr(repairing, "EVIDENCE_WITHIN_S", 0.5)
    yield
    structlog.reset_defaults()


async def chat(gate: Gate) -> int:
    return (await gate.chat("hi\nsim: tokens=3")).status_code


async def answers_200(gate: Gate) -> bool:
    return await chat(gate) == 200


async def frozen(gate: Gate) -> bool:
    try:
        return any(head.frozen for head in await gate.outbox.heads())
    except LedgerUnavailable:
        return False


async def whole(gate: Gate) -> bool:
    return not await frozen(gate) and await answers_200(gate)


def repaired(service: ExportService) -> float:
    samples = service.snapshot()["creditgate_shard_repairs_total"]["samples"]
    return float(next(value for labels, value in samples if labels == ["repaired"]))


def figure(service: ExportService, name: str) -> float:
    ((_, value),) = service.snapshot()[name]["samples"]
    return float(value)


async def drifts(gate: Gate) -> list[str]:
    with sqlite_access(events_path(gate.settings)).open_or_empty() as store:
        found = await verify(Audit(gate.runner._client, gate.ledger.keys), gate.outbox, store)
    return [f"{drift.identity} {drift.subject}: {drift.message}" for drift in found.drifts]


@asynccontextmanager
async def load(gate: Gate, clients: int = 4) -> AsyncIterator[list[int]]:
    """Requests without a pause; yields the statuses so far."""
    statuses: list[int] = []

    async def client() -> None:
        while True:
            statuses.append(await chat(gate))

    tasks = [asyncio.create_task(client()) for _ in range(clients)]
    try:
        yield statuses
    finally:
        await end_tasks(tasks)


async def test_a_ledger_that_lost_a_tail_under_load_is_repaired_and_exact(
    tmp_path: Path, own: OwnServer, sim: Sim
) -> None:
    async with running_gate(tmp_path, own.socket, sim.url) as gate, exporting(gate) as service:
        shard = gate.ledger.keys.shard_of("acme")
        async with load(gate) as statuses:
            await until(lambda: len(statuses) > 20)
            await asyncio.to_thread(own.keep_copy)
            kept = stored(gate)[shard]
            await until(lambda: stored(gate)[shard].seq > kept.seq + 50, SOON_S)
            with capture_logs() as logs:
                await asyncio.to_thread(own.restore_copy)
                await until(lambda: repaired(service) >= 1, SOON_S)
                await until(lambda: whole(gate), SOON_S)
            admitted = statuses.count(200)
            await until(lambda: statuses.count(200) > admitted + 20, SOON_S)
        await delivered(gate)
        assert await drifts(gate) == []
        head = (await gate.outbox.heads())[shard]
        assert head.last.epoch == 2
        [line] = [line for line in logs if line["event"] == "shard_repaired"]
        assert (line["shard"], line["epoch"], line["verified"]) == (shard, 2, True)
        assert line["applied"] > 0
        assert figure(service, "creditgate_shard_repair_seconds") < SOON_S
        said = await Desk(tmp_path / "gateway.yaml").run("ledger", "status")
        assert (said.code, "none is shut" in said.out) == (0, True)
        audit = await Desk(tmp_path / "gateway.yaml").run("audit", "--action", "ledger.reopen")
        assert "gate:repair" in audit.out


async def test_an_emptied_ledger_is_restored_with_all_its_shards(
    tmp_path: Path, own: OwnServer, sim: Sim
) -> None:
    async with running_gate(tmp_path, own.socket, sim.url) as gate, exporting(gate):
        assert [await chat(gate) for _ in range(3)] == [200] * 3
        await delivered(gate)
        settled = await gate.settled_nano()
        await asyncio.to_thread(own.wipe)
        await until(lambda: whole(gate), SOON_S)
        assert await gate.settled_nano() > settled
        await delivered(gate)
        assert await drifts(gate) == []


async def test_an_event_that_cannot_be_replayed_shuts_its_wallet_alone_until_it_is_thawed(
    tmp_path: Path, own: OwnServer, sim: Sim
) -> None:
    desk = Desk(tmp_path / "gateway.yaml")
    async with running_gate(tmp_path, own.socket, sim.url) as gate:
        shard = gate.ledger.keys.shard_of("acme")
        other = next(f"c{n}" for n in range(99) if gate.ledger.keys.shard_of(f"c{n}") == shard)
        async with exporting(gate) as service:
            await gate.ledger.account(other, account_rev=1)
            assert await chat(gate) == 200
            await delivered(gate)
            await asyncio.to_thread(own.keep_copy)
            assert await chat(gate) == 200
            await gate.ledger.grant(other, "g1", 5)
            await delivered(gate)
        await asyncio.to_thread(own.restore_copy)
        # Someone has emptied the wallet by hand.
        await gate.runner._client.delete(gate.ledger.keys.account(shard, "acme"))
        with capture_logs() as logs:
            async with exporting(gate) as service:
                await until(lambda: repaired(service) >= 1, SOON_S)
                await until(lambda: figure(service, "creditgate_wallets_shut") == 1, SOON_S)
                await delivered(gate)
                assert await chat(gate) in (402, 403, 429)
                wallet = (await gate.store.wallets.read([other]))[other]
                assert (wallet.granted_nano, wallet.frozen) == (5, False)
                status = await desk.run("ledger", "status")
                assert (status.code, "acme" in status.out) == (1, True)
                document = await desk.run("ledger", "status", "--json")
                assert '"customer_id":"acme"' in document.out
                assert "cannot be replayed: unknown account" in document.out
                audit = await desk.run("audit", "--customer", "acme", "--action", "wallet.freeze")
                assert "gate:repair" in audit.out
                thawed = await desk.run("wallet", "thaw", "acme", "--reason", "looked at")
                assert thawed.code == 0, thawed
                assert (await desk.run("ledger", "status")).code == 0
                await until(lambda: figure(service, "creditgate_wallets_shut") == 0, SOON_S)
        shut = [line for line in logs if line["event"] == "wallet_shut"]
        assert [line["customer_id"] for line in shut] == ["acme"]


async def test_a_gate_whose_operator_repairs_leaves_a_frozen_shard_alone(
    tmp_path: Path, own: OwnServer, sim: Sim
) -> None:
    redis = {"url": f"unix://{own.socket}", "shards": SHARDS, "repair": "manual"}
    async with (
        running_gate(tmp_path, own.socket, sim.url, redis=redis) as gate,
        exporting(gate) as service,
    ):
        assert await chat(gate) == 200
        await delivered(gate)
        await asyncio.to_thread(own.keep_copy)
        assert await chat(gate) == 200
        await delivered(gate)
        await asyncio.to_thread(own.restore_copy)
        await until(lambda: frozen(gate), SOON_S)
        await asyncio.sleep(4 * repairing.EVIDENCE_WITHIN_S + 2)
        assert await frozen(gate)
        assert repaired(service) == 0


class Mortal(RedisRunner):
    """A runner whose process dies after some calls: before the server has the last one, or after."""

    def __init__(self, client: Any, dice: random.Random) -> None:
        super().__init__(client)
        self.left = dice.randint(1, 60)
        self.before = dice.random() < 0.5

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> list[Any]:
        self.left -= 1
        if self.left > 0:
            return await super().run(script, keys, args)
        if self.left == 0 and not self.before:
            await super().run(script, keys, args)
        raise asyncio.CancelledError


class Halted:
    """An exporter whose shards are all halted."""

    held_shards = frozen_shards = frozenset(range(SHARDS))


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_repair_that_dies_again_and_again_converges(
    tmp_path: Path, own: OwnServer, sim: Sim, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repairing, "EVIDENCE_WITHIN_S", 0.0)
    dice = random.Random(seed)
    async with running_gate(tmp_path, own.socket, sim.url) as gate:
        async with exporting(gate):
            assert await chat(gate) == 200
            await delivered(gate)
            await asyncio.to_thread(own.keep_copy)
            async with load(gate) as statuses:
                await until(lambda: statuses.count(200) > 300, 60)
            await delivered(gate)
            settled = await gate.settled_nano()
        await asyncio.to_thread(own.restore_copy)
        shard = gate.ledger.keys.shard_of("acme")
        await until(lambda: frozen(gate), SOON_S)
        deaths = 0
        while (await gate.outbox.heads())[shard].frozen:
            repairer, client = repairer_of(gate)
            repairer._backend.repair.shards.runner = Mortal(client, dice)
            with suppress(asyncio.CancelledError):
                await repairer.repair_due()
            deaths += 1
            await client.aclose()
        assert deaths > 3
        assert await gate.settled_nano() == settled
        async with exporting(gate):
            await until(lambda: answers_200(gate), SOON_S)
            await delivered(gate)
        assert await drifts(gate) == []


def repairer_of(gate: Gate) -> tuple[Repairer, Any]:
    """A repairer of all shards, as a process that has just started has it."""
    client = Endpoint.from_url(gate.settings.redis.connection_url() or "").client(name="repairer")
    made = assemble_repairer(gate.settings, client, cast(Exporter, Halted()))
    assert made is not None
    return made, client


async def test_two_repairers_and_an_operator_at_once_repair_it_once(
    tmp_path: Path, own: OwnServer, sim: Sim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repairing, "EVIDENCE_WITHIN_S", 0.0)
    desk = Desk(tmp_path / "gateway.yaml")
    async with running_gate(tmp_path, own.socket, sim.url) as gate:
        async with exporting(gate):
            assert await chat(gate) == 200
            await delivered(gate)
            await asyncio.to_thread(own.keep_copy)
            async with load(gate) as statuses:
                await until(lambda: statuses.count(200) > 100, 60)
            await delivered(gate)
            settled = await gate.settled_nano()
        await asyncio.to_thread(own.restore_copy)
        await until(lambda: frozen(gate), SOON_S)
        both = [repairer_of(gate) for _ in range(2)]
        tasks = [asyncio.create_task(repairer.run()) for repairer, _ in both]
        await desk.run("ledger", "reopen")
        await until(lambda: whole(gate), SOON_S)
        for repairer, _ in both:
            repairer.stop()
        await asyncio.wait(tasks)
        for task in tasks:
            task.result()
        for _, client in both:
            await client.aclose()
        async with exporting(gate):
            await delivered(gate)
        assert await drifts(gate) == []
        shard = gate.ledger.keys.shard_of("acme")
        assert (await gate.outbox.heads())[shard].last.epoch == 2
        assert await gate.settled_nano() > settled
