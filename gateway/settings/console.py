"""Section for the console: the admin API and the pages for people, on a separate port."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from gateway.settings.problems import Wrong
from gateway.settings.scalars import (
    BaseUrl,
    Port,
    Secret,
    Section,
    Switch,
    Text,
    Whole,
    field,
)
from gateway.settings.server_tls import ServerTlsSection

RoleName = Literal["read", "support", "billing", "admin"]


def _host_name(value: Any) -> str:
    text = str(value).strip().lower()
    try:
        url = urlsplit(f"//{text}")
        sound = url.netloc == text and bool(url.hostname) and "@" not in text
        sound = sound and (url.port is None or url.port > 0)
    except ValueError:
        sound = False
    if not sound or not text.isascii():
        raise Wrong(
            f"{text!r} is not a host name", "Write such as console.example.com, with :port if any."
        )
    return text


HostName = Annotated[str, BeforeValidator(_host_name), WithJsonSchema({"type": "string"})]


class OidcSection(Section):
    """Sign-in for people at an OpenID Connect provider. Register `PUBLIC_URL/console/oidc/callback`
    there as the redirect URI."""

    issuer: BaseUrl = field("The provider's issuer URL.", "https://login.example.com")
    client_id: Text = field("The client's id at the provider.", "creditgate")
    client_secret: Secret = field("The client's secret.", "${OIDC_CLIENT_SECRET}")
    claim: Text = field(
        "Claim of the ID token that decides the role: a string or a list of strings.",
        "groups",
        "groups",
    )
    roles: Mapping[Text, RoleName] = field(
        "Value of the claim → role. People with none of these values cannot sign in; of several the"
        " one with most rights counts.",
        {"finance": "billing", "platform": "admin"},
    )

    @model_validator(mode="after")
    def _some_role(self) -> "OidcSection":
        if not self.roles:
            raise Wrong(
                "is empty, so nobody could sign in", "Write such as {platform: admin}.", at="roles"
            )
        return self


class ConsoleSection(Section):
    """The console and the admin API: a separate process and port. Everything on it requires an API
    token or a sign-in."""

    enabled: Switch = field("Run the console and the admin API.", True, True)
    host: Text = field("Address to listen on.", "127.0.0.1", "127.0.0.1")
    port: Port = field("Port; 0 takes a free one.", 8082, 8082)
    public_url: BaseUrl | None = field(
        "URL under which browsers reach the console, if it differs from the address: behind a proxy,"
        " or under a host name.",
        "https://console.example.com",
        None,
    )
    allowed_hosts: tuple[HostName, ...] = field(
        "Further values of the Host header that are accepted, with the port if it is not the default."
        " Others are refused, which protects against DNS rebinding.",
        ["gate-3.internal:8082"],
        (),
    )
    session_hours: Annotated[int, Whole(1, 720)] = field("How long a sign-in lasts.", 12, 12)
    tls: ServerTlsSection | None = field(
        "Serve HTTPS.", {"cert_file": "tls/gate.pem", "key_file": "tls/gate.key"}, None
    )
    oidc: OidcSection | None = field(
        "Sign-in at an OpenID Connect provider.",
        {
            "issuer": "https://login.example.com",
            "client_id": "creditgate",
            "client_secret": "${OIDC_CLIENT_SECRET}",
            "roles": {"platform": "admin"},
        },
        None,
    )
