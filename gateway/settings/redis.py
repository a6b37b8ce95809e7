"""The section of the ledger's servers."""

from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from pydantic import BeforeValidator, model_validator

from gateway.ledger.client.endpoint import BadLedgerUrl
from gateway.ledger.client.sentinel.endpoint import SCHEMES as SENTINEL_SCHEMES
from gateway.ledger.client.servers import locate
from gateway.settings.client_tls import ClientTlsSection
from gateway.settings.problems import Wrong
from gateway.settings.scalars import Id, Secret, Section, Text, Whole, field


class SentinelSection(Section):
    """How the Sentinels of a `redis+sentinel://` URL are entered, if they ask for a password.
    `redis.username` and `redis.password` are for the servers that they watch."""

    username: Text | None = field("ACL user of the Sentinels.", "gate", None)
    password: Secret | None = field("Password of the Sentinels.", "${file:sentinel.password}", None)

    def url_options(self) -> dict[str, str]:
        """Return what is set, as query options of the URL."""
        options = {"sentinel_username": self.username} if self.username else {}
        if self.password:
            options["sentinel_password"] = self.password.get_secret_value()
        return options


class RedisSection(Section):
    """The ledger's Redis or Valkey. `redis: embedded` (the default) runs one in `data_dir`;
    `redis: URL` is short for `redis: {url: URL}`."""

    url: Secret | None = field(
        "URL of the server (redis://, rediss:// or unix://), of the Sentinels that watch it"
        " (redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/0 or rediss+sentinel://…) or of some nodes"
        " of a cluster (redis+cluster://HOST:PORT,HOST:PORT or rediss+cluster://…); if absent, the"
        " gate runs the embedded server.",
        "rediss://ledger.internal:6379/0",
        None,
    )
    username: Text | None = field("ACL user, if the URL names none.", "gate", None)
    password: Secret | None = field(
        "Password, if the URL has none.", "${file:redis.password}", None
    )
    tls: ClientTlsSection = field(
        "TLS of a rediss:// URL.", {"verify": True}, factory=ClientTlsSection
    )
    sentinel: SentinelSection = field(
        "User and password of the Sentinels.", {"username": "gate"}, factory=SentinelSection
    )
    namespace: Id = field(
        "Prefix of every key; lets two gates keep separate ledgers on one server.", "cg", "cg"
    )
    shards: Annotated[int, Whole(1, 4096)] = field(
        "Shards of the ledger. Fixed when the ledger is created; the gate refuses a different "
        "number later.",
        64,
        64,
    )
    durability: Literal["detect", "none", "everysec", "always"] = field(
        "What the server keeps at a power cut. `detect` asks the server. Declare it only if a "
        "managed service forbids asking; it is then shown as unverified.",
        "always",
        "detect",
    )

    repair: Literal["automatic", "manual"] = field(
        "Who repairs a shard that has lost entries, after a failover or from an older copy. `automatic`: the "
        "gate, from the required store. `manual`: an operator, with `creditgate ledger reopen`; until "
        "then the shard's customers get 503.",
        "manual",
        "automatic",
    )

    @property
    def embedded(self) -> bool:
        """Whether the gate runs an embedded server."""
        return self.url is None

    @property
    def shown_url(self) -> str:
        """The URL without credentials, for logs and tables."""
        if self.url is None:
            return "embedded"
        return locate(self.connection_url() or "").shown

    def connection_url(self) -> str | None:
        """The URL with user, password and TLS options, secrets included; None if embedded."""
        if self.url is None:
            return None
        url = urlsplit(self.url.get_secret_value())
        query = dict(parse_qsl(url.query))
        entry, _, address = url.netloc.rpartition("@")
        user, _, password = entry.partition(":")
        if self.username:
            user = quote(self.username, safe="")
        if self.password:
            password = quote(self.password.get_secret_value(), safe="")
        if url.scheme == "unix":
            if user:
                query["username"] = unquote(user)
            if password:
                query["password"] = unquote(password)
            return f"unix://{url.path}" + (f"?{urlencode(query)}" if query else "")
        if user or password:
            address = f"{user}:{password}@{address}"
        if url.scheme.startswith("rediss"):
            query |= self.tls.url_options()
        if url.scheme in SENTINEL_SCHEMES:
            query |= self.sentinel.url_options()
        return url._replace(netloc=address, query=urlencode(query)).geturl()

    @model_validator(mode="after")
    def _enterable(self) -> "RedisSection":
        url = self.connection_url()
        if url is None:
            if self.username or self.password:
                raise Wrong("the embedded server has no user and no password", "Set `url`.")
            return self
        try:
            locate(url)
        except BadLedgerUrl as error:
            raise Wrong(
                str(error),
                "Write redis://host:6379/0, unix:///path/to/socket,"
                " redis+sentinel://host:26379,host:26379/service or"
                " redis+cluster://host:6379,host:6379; with TLS rediss instead of redis.",
                at="url",
            ) from None
        if self.tls != ClientTlsSection() and not urlsplit(url).scheme.startswith("rediss"):
            raise Wrong("is set, but the URL is not rediss://", "Use rediss:// for TLS.", at="tls")
        if self.sentinel != SentinelSection() and urlsplit(url).scheme not in SENTINEL_SCHEMES:
            raise Wrong(
                "is set, but the URL is not redis+sentinel://",
                "Name the sentinels in the URL.",
                at="sentinel",
            )
        return self


def read_redis(value: Any) -> Any:
    """Expand `embedded` and a plain URL to the mapping they stand for."""
    if isinstance(value, str):
        return {} if value == "embedded" else {"url": value}
    return value


Redis = Annotated[RedisSection, BeforeValidator(read_redis)]
