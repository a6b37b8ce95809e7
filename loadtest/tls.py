"""A server's throw-away certificate as the files and contexts that TLS upstreams need."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from loadtest.certificates import write_certificates


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
    """Make an authority and a server certificate in this folder, valid for a day."""
    return TlsFiles(*write_certificates(folder))
