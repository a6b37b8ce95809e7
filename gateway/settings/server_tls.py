"""Section of TLS on one of the gate's own ports."""

from pathlib import Path

from pydantic import model_validator

from gateway.http.tls import BadCertificate, ServerCertificate
from gateway.settings.problems import Wrong
from gateway.settings.scalars import InputFile, Section, field


class ServerTlsSection(Section):
    """TLS on a port, 1.2 or newer, for HTTP/1.1. The files are watched: after a renewal new
    connections get the new certificate and open ones go on. Files that cannot be used are refused."""

    cert_file: InputFile = field(
        "Certificate, followed by the intermediate ones, PEM.", "tls/gate.pem"
    )
    key_file: InputFile = field("Private key of the certificate, PEM, unencrypted.", "tls/gate.key")
    client_ca: InputFile | None = field(
        "If set, clients must show a certificate that one of these has signed, PEM.",
        "tls/ca.pem",
        None,
    )

    @model_validator(mode="after")
    def _usable(self) -> "ServerTlsSection":
        try:
            self.certificate().context()
        except BadCertificate as error:
            [at] = [name for name, value in self if value == error.file][:1]
            raise Wrong(error.problem, f"Look at {error.file}.", at=at) from None
        return self

    def certificate(self) -> ServerCertificate:
        """Convert to the server's form."""
        return ServerCertificate(self.cert_file, self.key_file, self.client_ca)

    def named_files(self) -> list[Path]:
        """The files that are read."""
        return [self.cert_file, self.key_file, *([self.client_ca] if self.client_ca else [])]
