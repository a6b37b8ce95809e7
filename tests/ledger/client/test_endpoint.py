"""Every way to a server: plain, unix, TLS, with and without a user, on both event loops."""

import asyncio
import datetime as dt
import hashlib
import ipaddress
import ssl
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import redis.exceptions
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.ledger.client.endpoint import BadLedgerUrl, Endpoint
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.runner import CoalescingRunner
from gateway.ledger.client.scripts import Script
from tests.ledger.relay import Relay
from tests.ledger.servers import OwnServer, server

PASSWORD = "p@ss/word#1"
QUOTED = "p%40ss%2Fword%231"


@dataclass(frozen=True)
class Certificates:
    authority: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate for 127.0.0.1 that is its own authority."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ledger.test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "cert.pem", folder / "key.pem"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return Certificates(public, public, private)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """A server where only the user `gate` may enter, with two databases and more."""
    folder = tmp_path_factory.mktemp("acl")
    user = ("--user", "gate", "on", ">" + PASSWORD, "~*", "+@all")
    with server(folder, "--user", "default", "off", *user) as own:
        yield own


@asynccontextmanager
async def way_in(
    kind: str, guarded: OwnServer, certificates: Certificates
) -> AsyncIterator[Endpoint]:
    if kind == "unix":
        yield Endpoint.from_url(f"unix://gate:{QUOTED}@{guarded.socket}?db=3")
        return
    relay = Relay(guarded.socket)
    tls = kind == "tls"
    port = await relay.listen_tcp(certificates.context() if tls else None)
    options = f"?ssl_ca_certs={certificates.authority}" if tls else ""
    scheme = "rediss" if tls else "redis"
    try:
        yield Endpoint.from_url(f"{scheme}://gate:{QUOTED}@127.0.0.1:{port}/3{options}")
    finally:
        await relay.close()


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def on_loop(loop: str, main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", ["plain", "unix", "tls"])
def test_the_hot_path_and_the_client_get_in(
    kind: str, loop: str, guarded: OwnServer, certificates: Certificates
) -> None:
    source = b"#!lua\nreturn {'ok', ARGV[1]}"
    echo = Script("echo", source, hashlib.sha1(source).hexdigest().encode())
    big = b"x" * 700_000  # many reads and writes, TLS records and a paused transport

    async def main() -> None:
        async with way_in(kind, guarded, certificates) as endpoint:
            client = endpoint.client(name="off-path")
            async with CoalescingRunner(endpoint, name="hot-path", timeout_s=10) as runner:
                replies = await asyncio.gather(
                    *(runner.run(echo, [b"k"], [b"%d" % i]) for i in range(200)),
                    *(runner.run(echo, [b"k"], [big]) for _ in range(3)),
                )
                assert replies[:200] == [[b"ok", b"%d" % i] for i in range(200)]
                assert replies[200:] == [[b"ok", big]] * 3
                found = {c["name"]: c for c in await client.client_list()}
                assert found["hot-path"]["user"] == "gate"
                assert found["hot-path"]["db"] == "3"
                assert found["hot-path"]["resp"] == "2"
                assert found["off-path"]["resp"] == "2"
            names = [c["name"] for c in await client.client_list()]
            assert "hot-path" not in names
            await client.aclose()

    on_loop(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_certificate_of_nobody_known_is_refused(
    loop: str, guarded: OwnServer, certificates: Certificates
) -> None:
    async def main() -> None:
        relay = Relay(guarded.socket)
        port = await relay.listen_tcp(certificates.context())
        endpoint = Endpoint.from_url(f"rediss://gate:{QUOTED}@127.0.0.1:{port}")
        with pytest.raises(LedgerUnavailable, match="certificate verify failed"):
            await CoalescingRunner(endpoint, name="t").start()
        trusting = Endpoint.from_url(
            f"rediss://gate:{QUOTED}@127.0.0.1:{port}?ssl_cert_reqs=none&ssl_check_hostname=no"
        )
        async with CoalescingRunner(trusting, name="t") as runner:
            assert runner.connected
        await relay.close()

    on_loop(loop, main())


async def test_a_certificate_for_another_name_is_refused(
    guarded: OwnServer, certificates: Certificates
) -> None:
    relay = Relay(guarded.socket)
    port = await relay.listen_tcp(certificates.context())
    ca = certificates.authority
    endpoint = Endpoint.from_url(f"rediss://gate:x@localhost:{port}?ssl_ca_certs={ca}")
    with pytest.raises(LedgerUnavailable, match="certificate verify failed"):
        await CoalescingRunner(endpoint, name="t").start()
    await relay.close()


@pytest.mark.parametrize("user", ["gate:hush-hush", "nobody:hush-hush", ":hush-hush"])
async def test_a_refused_password_is_said_and_not_shown(guarded: OwnServer, user: str) -> None:
    endpoint = Endpoint.from_url(f"unix://{user}@{guarded.socket}")
    with pytest.raises(LedgerUnavailable, match="refuses the user name or the password") as caught:
        await CoalescingRunner(endpoint, name="t").start()
    assert not caught.value.unknown
    assert "hush" not in "".join(traceback.format_exception(caught.value))


async def test_no_error_shows_the_password(tmp_path: Path) -> None:
    nowhere = [
        "redis://gate:hush-hush@127.0.0.1:1/0",
        "rediss://gate:hush-hush@127.0.0.1:1/0",
        "rediss://gate:hush-hush@127.0.0.1:1/0?ssl_ca_certs=/does/not/exist",
        f"unix://gate:hush-hush@{tmp_path}/nothing",
        "redis://gate:hush-hush@does-not-exist.invalid/0",
    ]
    for url in nowhere:
        endpoint = Endpoint.from_url(url)
        client = endpoint.client(name="t")
        assert "hush" not in f"{endpoint!r} {endpoint} {endpoint.shown} {client!r}"
        with pytest.raises(LedgerUnavailable, match="cannot be reached") as caught:
            await CoalescingRunner(endpoint, name="t").start()
        assert "hush" not in "".join(traceback.format_exception(caught.value))
        with pytest.raises(redis.exceptions.ConnectionError) as refused:
            await client.ping()
        assert "hush" not in "".join(traceback.format_exception(refused.value))
        await client.aclose()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://gate:hush@host/0", "must begin with redis://"),
        ("redis://gate:hu/sh@host/0", "percent-encoded"),
        ("redis://gate:hu#sh@host/0", "percent-encoded"),
        ("redis://gate:hush@host:99999/0", "malformed"),
        ("redis://gate:hush@[::1/0", "malformed"),
        ("redis://gate:hush@host/zero", "must be a database's number"),
        ("redis://gate:hush@host/0?db=hush", "malformed"),
        ("redis://gate:hush@host/0#hush", "%23"),
        ("redis://gate:hush@host/0?protocol=3", "not allowed: protocol"),
        ("redis://gate:hush@host/0?retry_on_timeout=yes&timeout=1", "retry_on_timeout, timeout"),
        ("unix://gate:hush@", "path of a socket"),
        ("", "must begin with redis://"),
    ],
)
def test_a_bad_url_is_refused_without_repeating_it(url: str, says: str) -> None:
    with pytest.raises(BadLedgerUrl, match=says) as caught:
        Endpoint.from_url(url)
    assert "hush" not in "".join(traceback.format_exception(caught.value))
    assert "hu" not in str(caught.value).replace("hu#", "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://host:7000/2", "redis://host:7000/2"),
        ("rediss://us%40er:hush@host", "rediss://us%40er@host:6379/0"),
        ("redis://:hush@[::1]:7000", "redis://[::1]:7000/0"),
        ("unix:///run/a%20b/s?db=4", "unix:///run/a%20b/s"),
    ],
)
def test_an_endpoint_shows_its_address_and_user_only(url: str, shown: str) -> None:
    assert Endpoint.from_url(url).shown == shown


async def test_a_socket_path_needs_no_escaping(tmp_path: Path) -> None:
    folder = tmp_path / "a b%20c"
    folder.mkdir()
    with server(folder) as own:
        endpoint = Endpoint.from_socket(own.socket)
        again = Endpoint.from_url(endpoint.shown)
        for each in (endpoint, again):
            async with CoalescingRunner(each, name="t") as runner:
                assert runner.connected


async def test_a_server_that_accepts_and_says_nothing_is_given_up(tmp_path: Path) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_unix_server(say_nothing, tmp_path / "s")
    runner = CoalescingRunner(Endpoint.from_socket(tmp_path / "s"), name="t", connect_timeout_s=0.1)
    with pytest.raises(LedgerUnavailable, match=r"cannot be reached: .*[Tt]imeout"):
        await runner.start()
    silent.close()


async def test_the_client_sends_a_command_once_even_when_the_answer_is_lost(
    valkey_socket: Path, valkey: redis.asyncio.Redis, tmp_path: Path
) -> None:
    relay = Relay(valkey_socket)
    await relay.listen_unix(tmp_path / "s")
    client = Endpoint.from_socket(tmp_path / "s").client(name="t")
    await client.incrby("n", 1)
    relay.cut_replies = True
    with pytest.raises(redis.exceptions.ConnectionError):
        await client.incrby("n", 1)
    relay.cut_replies = False
    assert await valkey.get("n") == b"2"
    assert await client.incrby("n", 1) == 3
    await client.aclose()
    await relay.close()


async def test_an_exhausted_pool_fails_after_a_short_wait(valkey_socket: Path) -> None:
    client = Endpoint.from_socket(valkey_socket).client(
        name="t", max_connections=1, pool_wait_s=0.05
    )

    async def block() -> None:
        await client.blpop(["never"], timeout=1)

    blocked = asyncio.create_task(block())
    await asyncio.sleep(0.02)
    with pytest.raises(redis.exceptions.ConnectionError, match="No connection available"):
        await client.ping()
    blocked.cancel()
    await asyncio.gather(blocked, return_exceptions=True)
    await client.aclose()
