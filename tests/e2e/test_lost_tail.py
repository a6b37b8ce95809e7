"""The ledger's server is replaced by an older copy under load: the gate repairs its shards without an operator.

The complete gate as a program, with a worker, an exporter and a supervisor; the exporter is killed while it
repairs.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
import redis.asyncio
import yaml

from gateway.app.tasks import end_tasks
from gateway.domain.reservation import shard_of
from gateway.ledger.outbox import Outbox
from tests.ledger.servers import OwnServer, free_port, server
from tests.support.gate import SHARDS, gate_config
from tests.support.program import SOON_S, Program, serve
from tests.support.stores import sqlite_access
from tests.support.until import until
from tests.support.upstreams import Sim
from tests.unit.cli.desk import Desk

AOF = ("--appendonly", "yes", "--appendfsync", "always")
SHARD = shard_of("acme", SHARDS)
LOST = 150
"""Charges that the store has and the copy has not, at least."""


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """A server whose files can be put back."""
    with server(tmp_path_factory.mktemp("own"), *AOF) as started:
        yield started


@pytest.mark.timeout(6 * SOON_S)
async def test_the_gate_heals_while_requests_come_and_its_exporter_is_killed(
    tmp_path: Path, own: OwnServer, sim: Sim
) -> None:
    ports = free_port(), free_port()
    listening = {"listen": {"port": ports[0], "workers": 1}, "admin": {"port": ports[1]}}
    config = gate_config(sim.url, tmp_path / "data", f"unix://{own.socket}", **listening)
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(config))
    program = serve(tmp_path / "gateway.yaml", tmp_path / "log")
    try:
        async with httpx.AsyncClient(timeout=30) as client:
            gate = Program(program, client, ports)
            await gate.answers(200)
            statuses: Counter[int] = Counter()
            load = [asyncio.create_task(keep_asking(gate, statuses)) for _ in range(4)]
            try:
                await lose_a_tail(own, tmp_path)
                await kill_the_repairer(gate, own, tmp_path)
                await until(lambda: "shard_repaired" in log_of(tmp_path), SOON_S)
                admitted = statuses[200]
                await until(lambda: statuses[200] > admitted + 50, SOON_S)
            finally:
                await end_tasks(load)
            assert statuses[503] > 0, "the shard was shut for a while"

            async def is_whole() -> bool:
                return "degraded" not in await gate.admin()

            await until(is_whole, SOON_S)
            desk = Desk(tmp_path / "gateway.yaml")

            async def is_clean() -> bool:  # holds of the load may still be under way
                return (await desk.run("verify")).code == 0

            await until(is_clean, SOON_S)
            said = await desk.run("ledger", "status")
            assert (said.code, "none is shut" in said.out) == (0, True), said

            async def is_noted() -> bool:  # the exporter delivers it
                return "gate:repair" in (await desk.run("audit", "--action", "ledger.reopen")).out

            await until(is_noted, SOON_S)
    finally:
        program.terminate()
        program.wait(30)
    assert log_of(tmp_path).count('"shard_reopened"') == 1


async def keep_asking(gate: Program, statuses: Counter[int]) -> None:
    while True:
        status = await gate.chat()
        statuses[status] += 1
        if status != 200:
            await asyncio.sleep(0.02)


async def lose_a_tail(own: OwnServer, folder: Path) -> None:
    """Put back a copy from before the store's last charges."""
    with suppress(FileNotFoundError):
        await until(lambda: charges_stored(folder) > 20, SOON_S)
    await asyncio.to_thread(own.keep_copy)
    before = charges_stored(folder)
    await until(lambda: charges_stored(folder) > before + LOST, SOON_S)
    await asyncio.to_thread(own.restore_copy)


def charges_stored(folder: Path) -> int:
    """How many of the shard's entries the store has."""
    with sqlite_access(folder / "data" / "events.db").open_or_empty() as store:
        place = store.cursors().get(SHARD)
    return place.seq if place is not None else -1


async def kill_the_repairer(gate: Program, own: OwnServer, folder: Path) -> None:
    """Kill the exporter's process after it has replayed something, if it has not finished by then."""
    client = redis.asyncio.Redis(unix_socket_path=str(own.socket))
    outbox = Outbox(client, SHARDS)
    acked = (await outbox.heads())[SHARD].acked
    exporter = gate.child("exporter-0")

    async def replaying() -> bool:
        head = (await outbox.heads())[SHARD]
        return head.last.epoch > 1 or (head.frozen and head.acked != acked)

    await until(replaying, SOON_S)
    exporter.kill()
    await client.aclose()
    await until(lambda: gone(exporter), SOON_S)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def log_of(folder: Path) -> str:
    return (folder / "log").read_text()
