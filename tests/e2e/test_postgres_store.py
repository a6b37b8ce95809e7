"""A gate whose required store is Postgres: what runs on the store, and the store's restart under traffic."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.app.ledger_server import RemoteServer, Where
from gateway.app.stores import store_access
from gateway.domain.money import format_amount
from gateway.exporter.sinks.options import PostgresOptions
from loadtest.sinks.postgres_server import PostgresServer
from tests.support.delivering import delivered, exporting
from tests.support.gate import SHARDS, Serve
from tests.support.until import until
from tests.unit.cli.desk import Desk


@pytest.fixture
def options(postgres_server: PostgresServer) -> PostgresOptions:
    return postgres_server.fresh()


@pytest.fixture
def export(options: PostgresOptions) -> dict[str, Any]:
    """The configuration's section."""
    postgres = {"url": options.url, "schema": options.schema}
    return {"required": "warehouse", "sinks": {"warehouse": {"postgres": postgres}}}


@pytest.fixture
def query(
    postgres_server: PostgresServer, options: PostgresOptions
) -> Callable[[str], list[tuple[Any, ...]]]:
    """Run a statement in the store; {s} is its schema."""
    return lambda statement: postgres_server.execute(statement.format(s=options.schema))


async def test_everything_that_reads_the_store_works_on_postgres(
    serve: Serve, export: dict[str, Any], query: Any, tmp_path: Path
) -> None:
    async with serve(export=export) as gate, exporting(gate):
        desk = Desk(tmp_path / "gateway.yaml")
        for _ in range(3):
            assert (await gate.chat("Hello\nsim: tokens=5")).status_code == 200
        await delivered(gate)
        rows = query("SELECT requests, charged_nano, output FROM {s}.usage_by_day")
        charged = await gate.settled_nano()
        assert rows == [(3, charged, 15)]

        tail = await desk.run("events", "tail", "--json", "-n", "1")
        (last,) = query("SELECT event_id FROM {s}.events ORDER BY position DESC LIMIT 1")
        assert (tail.code, last[0] in tail.out) == (0, True)
        event_id = last[0]
        why = await desk.ask("why", event_id.partition(":")[0])
        assert why["charged"] == format_amount(charged // 3)
        refund = await desk.run("refund", event_id, "--reason", "a test")
        assert refund.code == 0, refund
        again = await desk.run("refund", event_id, "--reason", "a test")
        assert again.code == 1
        assert "nothing is left to refund" in again.err
        await delivered(gate)
        verify = await desk.run("verify")
        assert (verify.code, "No drift." in verify.out) == (0, True), verify
        held = (await gate.client.get("/v1/credits", headers=gate.headers)).json()["data"]
        assert held["usage_daily"] == format_amount(charged)
        assert (await desk.ask("signals", "list")) == []


async def test_while_postgres_is_away_requests_are_served_and_their_events_wait(
    serve: Serve,
    export: dict[str, Any],
    query: Any,
    postgres_server: PostgresServer,
    tmp_path: Path,
) -> None:
    async with serve(export=export) as gate, exporting(gate) as exporter:
        desk = Desk(tmp_path / "gateway.yaml")
        access = store_access(gate.settings)
        url = gate.settings.redis.connection_url()
        assert url is not None
        supervisor = RemoteServer(url, "none", Where("cg", SHARDS, access))
        await supervisor.start()
        assert (await gate.chat()).status_code == 200
        await delivered(gate)
        await asyncio.to_thread(postgres_server.stop)
        try:
            assert [(await gate.chat()).status_code for _ in range(5)] == [200] * 5
            held = (await gate.client.get("/v1/credits", headers=gate.headers)).json()["data"]
            assert held["usage_daily"] is None
            assert (await supervisor.look()).problem == "store_unreadable"
            for words in (["events", "tail"], ["signals", "list"], ["verify"], ["why", "r"]):
                said = await desk.run(*words)
                assert said.code == 1
                assert "the store at postgresql://gate@127.0.0.1" in said.err

            async def waiting() -> bool:
                return exporter._exporter.tally.waiting == 1

            await until(waiting)
        finally:
            await asyncio.to_thread(postgres_server.start)
        await delivered(gate)
        assert query(
            "SELECT count(*), count(DISTINCT request_id) FROM {s}.events WHERE kind = 'settle'"
        ) == [(6, 6)]
        assert (await supervisor.look()).problem is None
        verify = await desk.run("verify")
        assert "No drift." in verify.out, verify
        await supervisor.stop()
