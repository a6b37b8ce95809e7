"""TLS contexts from files: each file that cannot be used is named, with the reason."""

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from gateway.http.tls import BadCertificate, ServerCertificate, following
from loadtest.certificates import write_certificates


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    return write_certificates(tmp_path)


def refusal(certificate: ServerCertificate) -> BadCertificate:
    with pytest.raises(BadCertificate) as caught:
        certificate.context()
    return caught.value


def test_a_key_of_another_certificate_is_refused(
    files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, cert, _ = files
    (tmp_path / "other").mkdir()
    other = write_certificates(tmp_path / "other")[2]
    error = refusal(ServerCertificate(cert, other))
    assert error.file == other
    assert error.problem == f"the private key does not belong to the certificate in {cert}"


def test_each_file_that_is_something_else_is_named(files: tuple[Path, Path, Path]) -> None:
    authority, cert, key = files
    assert refusal(ServerCertificate(key, key)).problem == "is not a certificate in PEM format"
    assert refusal(ServerCertificate(cert, cert)).problem == "is not a private key in PEM format"
    assert refusal(ServerCertificate(cert, key, key)).file == key
    assert ServerCertificate(cert, key, authority).context().verify_mode == ssl.CERT_REQUIRED


def test_a_file_that_is_missing_is_named(files: tuple[Path, Path, Path]) -> None:
    _, cert, key = files
    gone = cert.with_name("gone.pem")
    for certificate in (ServerCertificate(gone, key), ServerCertificate(cert, gone)):
        error = refusal(certificate)
        assert (error.file, error.problem) == (gone, "cannot be read: No such file or directory")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="encrypts a key with openssl")
def test_an_encrypted_key_is_refused_without_asking_for_its_passphrase(
    files: tuple[Path, Path, Path],
) -> None:
    _, cert, key = files
    locked = key.with_name("locked.key")
    encrypt = f"openssl ec -in {key} -aes256 -passout pass:secret -out {locked}"
    subprocess.run(encrypt.split(), check=True, capture_output=True)
    assert "encrypted" in refusal(ServerCertificate(cert, locked)).problem


async def test_a_server_that_keeps_one_context_follows_a_renewal(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    written = [write_certificates(folder) for folder in folders]
    contexts = [ServerCertificate(cert, key).context() for _, cert, key in written]
    current = contexts[0]
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=following(lambda: current)
    )
    port = server.sockets[0].getsockname()[1]

    async def trusted_by(authority: Path) -> bool:
        client = ssl.create_default_context(cafile=authority)
        try:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=client, server_hostname="localhost"
            )
        except ssl.SSLCertVerificationError:
            return False
        writer.close()
        return True

    async with server:
        assert [await trusted_by(authority) for authority, _, _ in written] == [True, False]
        current = contexts[1]
        assert [await trusted_by(authority) for authority, _, _ in written] == [False, True]
