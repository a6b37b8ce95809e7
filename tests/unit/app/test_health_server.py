"""The admin side on a real socket."""

import asyncio
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from gateway.app.health_server import AdminServer, AdminSide, Readiness, admin_token
from gateway.telemetry.metrics import Registry, Snapshot
from tests.support.until import until

TOKEN = "t0ken-of-the-operator"
READY: list[Readiness] = []


async def metrics() -> Snapshot:
    registry = Registry()
    registry.counter("c_total", "C.").labels().inc(3)
    return registry.snapshot()


async def secret(_: web.Request) -> web.Response:
    return web.Response(text="business")


async def breaks(_: web.Request) -> web.Response:
    raise RuntimeError("sk-canary")


@pytest.fixture
async def admin() -> AsyncIterator[httpx.AsyncClient]:
    READY[:] = [Readiness(True)]
    sock = socket.create_server(("127.0.0.1", 0))
    routes = [web.get("/why", secret), web.get("/breaks", breaks)]
    server = AdminServer(AdminSide(lambda: READY[0], metrics, TOKEN, routes))
    await server.start(sock)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client
    await server.close()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_health_is_open_and_says_no_more_than_yes(admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/healthz")).json() == {"status": "alive"}
    assert (await admin.get("/readyz")).json() == {"status": "ready"}


async def test_not_ready_is_503_with_the_reasons(admin: httpx.AsyncClient) -> None:
    READY[:] = [Readiness(False, ("draining", "ledger_unreachable"))]
    answer = await admin.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["why"] == ["draining", "ledger_unreachable"]


async def test_what_refuses_some_customers_is_named_while_it_is_ready(
    admin: httpx.AsyncClient,
) -> None:
    READY[:] = [Readiness(True, (), ("shard_3_frozen",))]
    answer = await admin.get("/readyz")
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "ready", "degraded": ["shard_3_frozen"]},
    )


async def test_metrics_are_prometheus_text(admin: httpx.AsyncClient) -> None:
    answer = await admin.get("/metrics", headers=bearer(TOKEN))
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "c_total 3.0" in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer"},
        bearer(TOKEN[:-1]),
        bearer(TOKEN + "x"),
        {"x-api-key": TOKEN},
        {"host": "127.0.0.1"},
    ],
)
@pytest.mark.parametrize("path", ["/metrics", "/why", "/nowhere", "/healthz/", "//healthz"])
async def test_without_the_token_nothing_else_answers(
    admin: httpx.AsyncClient, headers: dict[str, str], path: str
) -> None:
    answer = await admin.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "business" not in answer.text


async def test_two_authorization_headers_are_refused(admin: httpx.AsyncClient) -> None:
    twice = [("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")]
    assert (await admin.get("/why", headers=twice)).status_code == 401


async def test_with_the_token_further_routes_answer(admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/why", headers=bearer(TOKEN))).text == "business"
    assert (await admin.get("/nowhere", headers=bearer(TOKEN))).status_code == 404
    posted = await admin.post("/why", headers=bearer(TOKEN))
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET,HEAD")


async def test_a_fault_says_nothing_of_itself(admin: httpx.AsyncClient) -> None:
    answer = await admin.get("/breaks", headers=bearer(TOKEN))
    assert answer.status_code == 500
    assert "canary" not in answer.text
    assert "Traceback" not in answer.text


def test_token_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    first = admin_token(folder)
    assert len(first) >= 32
    assert admin_token(folder) == first
    assert stat.S_IMODE((folder / "admin.token").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["admin.token"]
    assert admin_token(tmp_path / "other") != first


async def test_connections_are_bounded_and_the_newest_is_served() -> None:
    """Connections that send nothing neither pile up nor lock out a probe."""
    READY[:] = [Readiness(True)]
    sock = socket.create_server(("127.0.0.1", 0))
    server = AdminServer(AdminSide(lambda: READY[0], metrics, TOKEN), connections_most=4)
    await server.start(sock)
    port = sock.getsockname()[1]
    # All at once: many are accepted within one turn of the event loop.
    silent = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(20)))
    closed = [asyncio.create_task(reader.read()) for reader, _ in silent]
    await until(lambda: sum(task.done() for task in closed) == 16)
    assert server.connection_count == 4
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        for _ in range(2):
            assert (await client.get("/healthz")).status_code == 200
        assert server.connection_count == 4
        await until(lambda: sum(task.done() for task in closed) == 17)
    await until(lambda: server.connection_count == 3)
    await server.close()
    await asyncio.gather(*closed, return_exceptions=True)
    for _, writer in silent:
        writer.close()
    assert server.connection_count == 0
