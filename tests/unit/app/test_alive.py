"""The image's health check, against the real admin port: plain, with TLS, with client certificates."""

import asyncio
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.app.health_server import AdminServer, AdminSide, Readiness
from gateway.http.tls import ServerCertificate
from gateway.telemetry.metrics import Snapshot
from loadtest.certificates import write_certificates

ROOT = Path(__file__).parents[3]


async def no_metrics() -> Snapshot:
    return {}


def tls(folder: Path, *, demand: bool) -> Callable[[], ssl.SSLContext]:
    ca, cert, key = write_certificates(folder)
    context = ServerCertificate(cert, key, ca if demand else None).context()
    return lambda: context


async def check(port: int) -> int:
    """The exit code of the check, as the image runs it."""
    command = [sys.executable, "-m", "gateway.app.alive", str(port)]
    done = await asyncio.to_thread(
        subprocess.run, command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    )
    return done.returncode


@pytest.mark.parametrize("kind", ["plain", "tls", "client certificates"])
async def test_a_running_gate_is_alive_whatever_its_admin_port_speaks(
    tmp_path: Path, kind: str
) -> None:
    side = AdminSide(lambda: Readiness(False, ("draining",)), no_metrics, "a-token-of-this-test")
    shakes = None if kind == "plain" else tls(tmp_path, demand=kind != "tls")
    server = AdminServer(side, tls=shakes)
    sock = socket.create_server(("127.0.0.1", 0))
    await server.start(sock)
    try:
        assert await check(sock.getsockname()[1]) == 0
    finally:
        await server.close()


async def test_a_port_that_nobody_listens_on_is_not_alive() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    assert await check(port) == 1


async def test_something_else_on_the_port_is_not_alive() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        assert await check(server.sockets[0].getsockname()[1]) == 1


def test_the_check_starts_quickly_because_it_imports_no_library() -> None:
    program = (
        "import sys, gateway.app.alive as _;"
        "print([m for m in sys.modules if m.partition('.')[0] in ('pydantic', 'aiohttp', 'redis')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
