"""A ledger that comes back with an older copy: refused everywhere, until `ledger reopen` repairs it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from gateway.app import shards
from gateway.domain.delivery import START
from gateway.domain.money import format_amount
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerUnavailable
from tests.ledger.servers import OwnServer, free_port, server
from tests.support.delivering import delivered, exporting
from tests.support.gate import SHARDS, Gate, digest, gate_config, running_gate
from tests.support.program import SOON_S, Program, serve
from tests.support.stores import events_path, sqlite_access
from tests.support.until import until
from tests.support.upstreams import Sim

from .desk import Desk

pytestmark = pytest.mark.usefixtures("quiet_logs")
AOF = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """A server whose files can be put back."""
    with server(tmp_path_factory.mktemp("own"), *AOF) as started:
        yield started


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LOOK_EVERY_S", 0.1)


def manual(own: OwnServer) -> dict[str, Any]:
    """A gate whose operator repairs shards."""
    redis = {"url": f"unix://{own.socket}", "shards": SHARDS, "repair": "manual"}
    return {"redis": redis}


async def chat(gate: Gate) -> int:
    return (await gate.chat("hi\nsim: tokens=3")).status_code


async def spend(gate: Gate, times: int) -> None:
    assert [await chat(gate) for _ in range(times)] == [200] * times
    await delivered(gate)


async def is_shut(gate: Gate) -> bool:
    shard = gate.ledger.keys.shard_of("acme")
    try:
        frozen: bool = (await gate.outbox.heads())[shard].frozen
        return frozen
    except LedgerUnavailable:
        return False


async def answers_503(gate: Gate) -> bool:
    return await chat(gate) == 503


async def answers_200(gate: Gate) -> bool:
    return await chat(gate) == 200


@asynccontextmanager
async def restored(tmp_path: Path, own: OwnServer, sim: Sim) -> AsyncIterator[tuple[Gate, int]]:
    """A gate whose ledger came back without its last three charges, and the balance before."""
    async with running_gate(tmp_path, own.socket, sim.url, **manual(own)) as gate, exporting(gate):
        await spend(gate, 2)
        await asyncio.to_thread(own.keep_copy)
        await spend(gate, 3)
        settled = await gate.settled_nano()
        await asyncio.to_thread(own.restore_copy)
        yield gate, settled


async def test_what_was_answered_and_lost_before_the_exporter_had_it_is_charged_again(
    tmp_path: Path, own: OwnServer, sim: Sim
) -> None:
    """Three settles, and the hold of a stream that goes on all the time."""
    desk = Desk(tmp_path / "gateway.yaml")
    async with running_gate(tmp_path, own.socket, sim.url, **manual(own)) as gate:
        async with exporting(gate):
            await spend(gate, 2)
            before = await gate.settled_nano()
        await asyncio.to_thread(own.keep_copy)
        posts = sim.provider.served.posts
        asked = "hi\nsim: tokens=40 ttft_ms=3000"
        stream = asyncio.create_task(gate.chat(asked, stream=True))
        await until(lambda: sim.provider.served.posts > posts)
        answers = [await gate.chat("hi\nsim: tokens=3") for _ in range(3)]
        await asyncio.to_thread(own.restore_copy)
        await until(lambda: is_shut(gate))
        await until(lambda: answers_503(gate))
        shard = str(gate.ledger.keys.shard_of("acme"))
        reopened = await desk.run("ledger", "reopen")
        assert reopened.code == 0, reopened
        assert (await stream).text.endswith("data: [DONE]\n\n")
        async with exporting(gate):
            await until(lambda: len(gate.service.failover.kept) == 0)
            await delivered(gate)
        assert (await desk.run("verify")).code == 0
        with sqlite_access(events_path(gate.settings)).open_or_empty() as store:
            charges = {
                event.event_id: event
                for event in store.events_beyond(int(shard), START)
                if event.reservation_id
            }
        for answer in answers:
            event = charges[f"{answer.headers['x-request-id']}:settled"]
            assert format_amount(event.amount_nano) == answer.headers["x-credits-cost"]
        streamed = charges[f"{stream.result().headers['x-request-id']}:settled"]
        assert streamed.usage["output"] == 40
        paid = sum(event.amount_nano for event in charges.values())
        assert len(charges) == 2 + 3 + 1
        assert await gate.settled_nano() == paid > before
        assert await gate.held_nano() == 0
        metrics = gate.service.snapshot()
        [[_, recovered]] = metrics["creditgate_settlements_recovered_total"]["samples"]
        assert recovered >= 3, "on a slow machine the stream has ended before the failover, too"
        [[labels, seconds]] = metrics["creditgate_shard_shut_seconds_total"]["samples"]
        assert labels == [shard, "worker-0"]
        assert seconds > 0
        assert metrics["creditgate_shards_shut"]["samples"] == [[[], 0]]


async def test_a_shard_that_lost_a_tail_stays_shut_whoever_restarts_until_it_is_reopened(
    tmp_path: Path, own: OwnServer, sim: Sim
) -> None:
    desk = Desk(tmp_path / "gateway.yaml")
    async with restored(tmp_path, own, sim) as (gate, settled):
        assert await chat(gate) == 503
        await until(lambda: is_shut(gate))
        assert await chat(gate) == 503
    # Another worker, and then another gate: both find it in the shard's own record.
    async with (
        running_gate(tmp_path, own.socket, sim.url, empty=False, **manual(own)) as gate,
        exporting(gate),
    ):
        assert await chat(gate) == 503
        shard = gate.ledger.keys.shard_of("acme")
        ready = (await gate.client.get("/readyz")).json()
        assert ready == {"status": "ok", "degraded": [f"shard_{shard}_frozen"]}
        refused = await desk.run("wallet", "grant", "acme", "5", "--key", "k1")
        assert (refused.code, "creditgate ledger status" in refused.err) == (1, True)
        status = await desk.run("ledger", "status", "--json")
        assert status.code == 1
        assert f'"shard":{shard},"state":"frozen"' in status.out
        assert '"lost":3' in status.out
        reopened = await desk.run("ledger", "reopen")
        assert (reopened.code, "3 events replayed" in reopened.out) == (0, True), reopened
        assert "Verified: no drift." in reopened.out
        assert await gate.settled_nano() == settled
        await until(lambda: answers_200(gate))

        async def is_whole() -> bool:
            return bool((await gate.client.get("/readyz")).json() == {"status": "ok"})

        await until(is_whole)
        await delivered(gate)
        assert (await desk.run("verify")).code == 0
        assert (await desk.run("ledger", "status")).code == 0
        assert (await desk.run("ledger", "reopen")).out.startswith("No shard has lost entries")
        with sqlite_access(events_path(gate.settings)).open_or_empty() as store:
            assert store.dead_letters() == []


async def test_the_finding_does_not_need_the_process_that_made_it(
    tmp_path: Path, own: OwnServer, sim: Sim
) -> None:
    """Nothing ran while the copy was put back, and nothing has frozen the shard."""
    async with running_gate(tmp_path, own.socket, sim.url, **manual(own)) as gate, exporting(gate):
        await spend(gate, 1)
        await asyncio.to_thread(own.keep_copy)
        await spend(gate, 2)
    await asyncio.to_thread(own.restore_copy)
    desk = Desk(tmp_path / "gateway.yaml")
    refused = await desk.refused("wallet", "grant", "acme", "5", "--key", "k1")
    assert "went_back" in refused
    async with running_gate(tmp_path, own.socket, sim.url, empty=False, **manual(own)) as gate:
        assert await chat(gate) == 503
        assert await is_shut(gate)


async def test_an_emptied_ledger_says_503_to_all_keys_and_comes_back_from_the_store(
    tmp_path: Path, own: OwnServer, sim: Sim
) -> None:
    made = {"authorization": "Bearer sk-made"}
    async with running_gate(tmp_path, own.socket, sim.url, **manual(own)) as gate, exporting(gate):
        await gate.store.keys.add(digest("sk-made"), "k-made", "acme")
        assert (await gate.client.get("/v1/models", headers=made)).status_code == 200
        await spend(gate, 3)
        settled = await gate.settled_nano()
        await asyncio.to_thread(own.wipe)

        async def made_key() -> int:
            return (await gate.client.get("/v1/models", headers=made)).status_code

        async def all_503() -> bool:
            balance = await gate.client.get("/v1/credits", headers=gate.headers)
            return {await chat(gate), await made_key(), balance.status_code} == {503}

        await until(all_503)
    async with (
        running_gate(tmp_path, own.socket, sim.url, empty=False, **manual(own)) as gate,
        exporting(gate),
    ):
        assert await chat(gate) == 503
        assert (await gate.client.get("/v1/models", headers=made)).status_code == 503
        desk = Desk(tmp_path / "gateway.yaml")
        reopened = await desk.run("ledger", "reopen")
        assert (reopened.code, "no drift" in reopened.out) == (0, True), reopened
        assert await gate.settled_nano() == settled
        wallet = (await gate.store.wallets.read(["acme"]))["acme"]
        assert wallet.granted_nano == 10_000_000_000, "a starting grant is given once"
        await until(lambda: answers_200(gate))


async def test_one_shut_shard_leaves_the_others_open(
    tmp_path: Path, own: OwnServer, sim: Sim
) -> None:
    async with restored(tmp_path, own, sim) as (gate, _):
        await until(lambda: is_shut(gate))
        shut = gate.ledger.keys.shard_of("acme")
        other = next(f"c{n}" for n in range(99) if gate.ledger.keys.shard_of(f"c{n}") != shut)
        await gate.ledger.account(other, account_rev=1)
        assert (await gate.ledger.grant(other, "g", 5)).balance_nano == 5


async def test_what_cannot_be_done_again_is_named_and_keeps_the_shard_shut(
    tmp_path: Path, own: OwnServer, sim: Sim
) -> None:
    desk = Desk(tmp_path / "gateway.yaml")
    async with restored(tmp_path, own, sim) as (gate, _):
        await until(lambda: is_shut(gate))
        # Someone has emptied the wallet by hand.
        shard = gate.ledger.keys.shard_of("acme")
        client = Endpoint.from_socket(own.socket).client(name="test")
        await client.delete(gate.ledger.keys.account(shard, "acme"))
        said = await desk.run("ledger", "reopen", "--shard", str(shard))
        assert said.code == 1
        assert "settled: unknown account" in said.out
        assert "--accept-loss" in said.out
        assert await is_shut(gate)
        said = await desk.run("ledger", "reopen", "--accept-loss")
        assert (said.code, said.out.count("not replayed")) == (1, 3)
        assert not await is_shut(gate)
        await client.aclose()


@pytest.mark.timeout(5 * SOON_S)
async def test_a_killed_worker_s_successor_is_503_too_and_reopening_reaches_it(
    tmp_path: Path, own: OwnServer, sim: Sim
) -> None:
    """The whole gate as a program: supervisor, worker and exporter."""
    ports = free_port(), free_port()
    listening = {"listen": {"port": ports[0], "workers": 1}, "admin": {"port": ports[1]}}
    ledger_url = f"unix://{own.socket}"
    config = gate_config(sim.url, tmp_path / "data", ledger_url, **listening, **manual(own))
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(config))
    program = serve(tmp_path / "gateway.yaml", tmp_path / "log")
    try:
        async with httpx.AsyncClient(timeout=30) as client:
            await program_tells_the_story(Program(program, client, ports), own, tmp_path)
    finally:
        program.terminate()
        program.wait(30)
    said = (tmp_path / "log").read_text()
    assert said.count("shard_frozen") >= 1
    assert said.count("shard_reopened") == 1


async def program_tells_the_story(program: Program, own: OwnServer, folder: Path) -> None:
    desk = Desk(folder / "gateway.yaml")
    await program.answers(200)
    await asyncio.to_thread(own.keep_copy)
    for _ in range(3):
        await program.answers(200)
    settled = (await desk.ask("wallet", "show", "acme"))["settled"]
    store = folder / "data" / "events.db"

    def delivered_all() -> bool:
        with sqlite_access(
            store
        ).open_or_empty() as opened:  # empty until the exporter has created it
            return sum(each.event.kind == "settle" for each in opened.latest(100)) >= 4

    await until(delivered_all, SOON_S)
    await asyncio.to_thread(own.restore_copy)
    await program.answers(503)
    killed = program.worker()
    killed.kill()
    await until(lambda: not killed.is_running() or killed.status() == psutil.STATUS_ZOMBIE, SOON_S)
    await program.answers(503)

    async def degraded() -> bool:  # the supervisor looks once a second
        return bool((await program.admin()).get("degraded"))

    await until(degraded, SOON_S)
    reopened = await desk.run("ledger", "reopen")
    assert (reopened.code, "no drift" in reopened.out) == (0, True), reopened
    assert (await desk.ask("wallet", "show", "acme"))["settled"] == settled
    await program.answers(200)

    async def is_whole() -> bool:
        return "degraded" not in await program.admin()

    await until(is_whole, SOON_S)
