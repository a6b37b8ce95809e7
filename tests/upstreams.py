"""Upstreams for tests: the simulated provider, plain and TLS, and a real llama.cpp server.

In a test module: `from tests.upstreams import sim_provider, tls_files, llama_server`; the
fixtures `sim`, `sim_tls` and `llama` are registered by `tests/conftest.py` or imported by name.
"""

import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from loadtest import llama, provider
from loadtest.provider import Provider
from loadtest.served import Row


@dataclass(frozen=True, slots=True)
class Sim:
    """A running simulated provider: its URL, and itself (`provider.controls`, `provider.served`)."""

    url: str
    provider: Provider

    def row(self, sent_id: str) -> Row:
        """The one POST seen with this id; fails when there are none or several."""
        rows = self.rows(sent_id)
        assert len(rows) == 1, f"{len(rows)} POSTs with id {sent_id}"
        return rows[0]

    def rows(self, sent_id: str) -> list[Row]:
        """All POSTs whose `x-request-id` or `x-client-request-id` is this."""
        rows = self.provider.served.rows
        return [row for row in rows if sent_id in (row.request_id, row.client_id)]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a private authority and of a server certificate for 127.0.0.1 and localhost."""

    authority: Path
    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """For a server that shows this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client_context(self) -> ssl.SSLContext:
        """For a client that trusts this authority alone."""
        return ssl.create_default_context(cafile=str(self.authority))


def make_tls_files(folder: Path) -> TlsFiles:
    """Make an authority and a server certificate, valid for a day."""
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=1)
    before = now - datetime.timedelta(minutes=5)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "creditgate tests")])
    authority = (
        x509.CertificateBuilder()
        .subject_name(authority_name)
        .issuer_name(authority_name)
        .public_key(authority_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(before)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    server_key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    server = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]))
        .issuer_name(authority_name)
        .public_key(server_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(before)
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    files = TlsFiles(folder / "authority.pem", folder / "server.pem", folder / "server.key")
    pem = serialization.Encoding.PEM
    files.authority.write_bytes(authority.public_bytes(pem))
    files.certificate.write_bytes(server.public_bytes(pem))
    files.key.write_bytes(
        server_key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


@contextlib.asynccontextmanager
async def sim_provider(
    simulated: Provider | None = None, *, tls: TlsFiles | None = None
) -> AsyncIterator[Sim]:
    """A simulated provider in this event loop, on a free port, that records what it sees."""
    simulated = simulated or Provider(record=True)
    context = tls.server_context() if tls else None
    async with provider.running(simulated, tls=context) as url:
        yield Sim(url, simulated)


@pytest.fixture
async def sim() -> AsyncIterator[Sim]:
    """A plain simulated provider."""
    async with sim_provider() as started:
        yield started


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """Certificates of this test run."""
    return make_tls_files(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def sim_tls(tls_files: TlsFiles) -> AsyncIterator[Sim]:
    """A simulated provider behind TLS."""
    async with sim_provider(tls=tls_files) as started:
        yield started


@pytest.fixture(scope="session")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real llama.cpp server; tests that use it carry the marker `model`."""
    with llama.running(tmp_path_factory.mktemp("llama")) as url:
        yield url
