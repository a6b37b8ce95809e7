"""TLS of the gate as a client: to the ledger's server, to sinks; and pairs of certificate and key."""

from pathlib import Path

from pydantic import model_validator

from gateway.exporter.sinks.options import TlsOptions
from gateway.settings.problems import Wrong
from gateway.settings.scalars import InputFile, Section, Switch, field


class ClientTlsSection(Section):
    """TLS to a server: to Redis if the URL is `rediss://`, to a sink where the section is written, be it
    empty (`tls: {}`)."""

    verify: Switch = field("Check the server's certificate and name.", True, True)
    ca_file: InputFile | None = field(
        "Certificates to trust instead of the system's, PEM.", "tls/ca.pem", None
    )
    client_cert: InputFile | None = field("Client certificate, PEM.", "tls/gate.pem", None)
    client_key: InputFile | None = field(
        "Private key of the client certificate, PEM.", "tls/gate.key", None
    )

    @model_validator(mode="after")
    def _pair(self) -> "ClientTlsSection":
        check_pair(self.client_cert, self.client_key)
        return self

    def for_sink(self) -> TlsOptions:
        """Convert to the exporter's form."""
        return TlsOptions(self.verify, self.ca_file, self.client_cert, self.client_key)

    def url_options(self) -> dict[str, str]:
        """Return the settings that differ from the default, as query options of the URL."""
        options = {} if self.verify else {"ssl_cert_reqs": "none", "ssl_check_hostname": "no"}
        files = {
            "ssl_ca_certs": self.ca_file,
            "ssl_certfile": self.client_cert,
            "ssl_keyfile": self.client_key,
        }
        return options | {name: str(path) for name, path in files.items() if path}


def check_pair(cert: Path | None, key: Path | None) -> None:
    if (cert is None) != (key is None):
        raise Wrong("`client_cert` and `client_key` must be set together", "Set both or neither.")
