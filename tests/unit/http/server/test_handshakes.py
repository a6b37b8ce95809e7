"""The server behind TLS, against real clients: handshakes that succeed, fail, or never end."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.http.interface import Exchange
from gateway.http.server.limits import ServerLimits
from gateway.http.server.server import HttpServer
from gateway.http.server.tls_listener import TlsListener
from gateway.http.tls import ServerCertificate
from loadtest.certificates import write_certificates
from tests.support.rawhttp import RawClient, free_socket
from tests.support.until import until

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
TEXT = b"content-type: text/plain\r\n"
BIG = b"0123456789" * 400_000


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    return write_certificates(tmp_path)


async def answer(exchange: Exchange) -> None:
    body = await exchange.read_body(10_000_000)
    await exchange.answer(
        200, TEXT, BIG if exchange.path == "/big" else exchange.path.encode() + body
    )


@asynccontextmanager
async def serving(
    certificate: ServerCertificate, limits: ServerLimits | None = None
) -> AsyncIterator[tuple[HttpServer, int]]:
    sock = free_socket()
    server = HttpServer(answer, limits)
    server.tls = certificate.context()
    await server.start(sock)
    try:
        yield server, sock.getsockname()[1]
    finally:
        await server.close(settle_s=1)
        assert (server.connection_count, server.busy_count) == (0, 0)


def listener(server: HttpServer) -> TlsListener:
    assert isinstance(server._listener, TlsListener)
    return server._listener


def trusting(authority: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority)


async def connect(port: int, context: ssl.SSLContext) -> RawClient:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost", limit=1 << 24
    )
    return RawClient(reader, writer)


async def test_requests_and_large_responses_pass_on_one_connection(
    files: tuple[Path, Path, Path],
) -> None:
    authority, cert, key = files
    async with serving(ServerCertificate(cert, key)) as (_, port):
        client = await connect(port, trusting(authority))
        for _ in range(3):
            client.send(GET)
            assert (await client.answer()).body == b"/x"
        client.send(GET.replace(b"/x", b"/big"))
        assert (await client.answer()).body == BIG
        client.send(
            b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n" + b"z" * 200_000
        )
        assert len((await client.answer()).body) == 200_002
        client.writer.close()


async def test_http_1_1_is_agreed_on_and_nothing_else(files: tuple[Path, Path, Path]) -> None:
    authority, cert, key = files
    async with serving(ServerCertificate(cert, key)) as (_, port):
        context = trusting(authority)
        context.set_alpn_protocols(["h2", "http/1.1"])
        client = await connect(port, context)
        agreed = client.writer.get_extra_info("ssl_object")
        assert (agreed.selected_alpn_protocol(), agreed.version()) == ("http/1.1", "TLSv1.3")
        client.writer.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_tls_1_1_is_refused_and_counted(files: tuple[Path, Path, Path]) -> None:
    authority, cert, key = files
    async with serving(ServerCertificate(cert, key)) as (server, port):
        old = trusting(authority)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(port, old)
        await until(lambda: listener(server).failed_total == 1)
        newer = trusting(authority)
        newer.maximum_version = ssl.TLSVersion.TLSv1_2
        client = await connect(port, newer)
        client.send(GET)
        assert (await client.answer()).status == 200
        client.writer.close()


async def test_plain_http_is_cut_and_the_handler_never_sees_it(
    files: tuple[Path, Path, Path],
) -> None:
    _, cert, key = files
    async with serving(ServerCertificate(cert, key)) as (server, port):
        client = await RawClient.connect(port)
        client.send(GET)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.answer()
        assert server.requests_total == 0


async def test_clients_without_a_certificate_are_refused_where_one_is_wanted(
    files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    authority, cert, key = files
    async with serving(ServerCertificate(cert, key, authority)) as (server, port):
        client = await connect(port, trusting(authority))  # TLS 1.3 tells it with the first read
        client.send(GET)
        with pytest.raises((ssl.SSLError, asyncio.IncompleteReadError, ConnectionError)):
            await client.answer()
        assert server.requests_total == 0
        known = trusting(authority)
        known.load_cert_chain(cert, key)
        client = await connect(port, known)
        client.send(GET)
        assert (await client.answer()).status == 200
        client.writer.close()


async def test_a_client_that_never_shakes_hands_is_cut_in_time(
    files: tuple[Path, Path, Path],
) -> None:
    _, cert, key = files
    async with serving(ServerCertificate(cert, key), ServerLimits(head_s=0.3)) as (server, port):
        client = await RawClient.connect(port)
        await until(lambda: listener(server).handshake_count == 1)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.answer(within_s=5)
        await until(lambda: listener(server).handshake_count == 0)


async def test_silent_connections_make_room_for_those_that_shake_hands(
    files: tuple[Path, Path, Path],
) -> None:
    authority, cert, key = files
    limits = ServerLimits(connections_most=128)
    async with serving(ServerCertificate(cert, key), limits) as (server, port):
        silent = [await RawClient.connect(port) for _ in range(60)]
        client = await connect(port, trusting(authority))
        assert listener(server).handshake_count <= 16
        client.send(GET)
        assert (await client.answer()).status == 200
        client.writer.close()
        for each in silent:
            each.writer.close()


async def test_handshakes_end_with_the_server(files: tuple[Path, Path, Path]) -> None:
    _, cert, key = files
    async with serving(ServerCertificate(cert, key)) as (server, port):
        client = await RawClient.connect(port)
        listening = listener(server)
        await until(lambda: listening.handshake_count == 1)
        await server.drain(0)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.answer(within_s=5)
        await until(lambda: listening.handshake_count == 0)


async def test_open_connections_keep_their_certificate_and_new_ones_get_the_next(
    files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    authority, cert, key = files
    (tmp_path / "next").mkdir()
    next_authority, *next_files = write_certificates(tmp_path / "next")
    async with serving(ServerCertificate(cert, key)) as (server, port):
        before = await connect(port, trusting(authority))
        server.tls = ServerCertificate(*next_files).context()
        after = await connect(port, trusting(next_authority))
        for client in (before, after):
            client.send(GET)
            assert (await client.answer()).status == 200
            client.writer.close()
