"""Section for TLS to a sink's server."""

from pydantic import model_validator

from gateway.exporter.sinks.options import TlsOptions
from gateway.settings.scalars import InputFile, Section, Switch, field
from gateway.settings.servers import check_pair


class SinkTlsSection(Section):
    """TLS to a sink's server. An empty section (`tls: {}`) turns it on."""

    verify: Switch = field("Check the server's certificate and name.", True, True)
    ca_file: InputFile | None = field(
        "Certificates to trust instead of the system's, PEM.", "tls/ca.pem", None
    )
    client_cert: InputFile | None = field("Client certificate, PEM.", "tls/gate.pem", None)
    client_key: InputFile | None = field(
        "Private key of the client certificate, PEM.", "tls/gate.key", None
    )

    @model_validator(mode="after")
    def _pair(self) -> "SinkTlsSection":
        check_pair(self.client_cert, self.client_key)
        return self

    def compiled(self) -> TlsOptions:
        """Convert to the exporter's form."""
        return TlsOptions(self.verify, self.ca_file, self.client_cert, self.client_key)
