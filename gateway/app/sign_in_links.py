"""Links that sign a person in to the console once."""

from gateway.app.backend import command_actor
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.servers import locate
from gateway.operations.tokens import offer_sign_in
from gateway.settings import Settings


async def link_at(settings: Settings, ledger_url: str, console: str) -> str:
    """A link for the user that runs this process. console: "host:port" of its listener.

    Raises LedgerUnavailable.
    """
    endpoint, redis = locate(ledger_url), settings.redis
    client = endpoint.client(name="creditgate-sign-in")
    try:
        accounts = AccountStore(client, namespace=redis.namespace, shard_count=redis.shards)
        code = await offer_sign_in(accounts, command_actor())
    finally:
        await client.aclose()
    return sign_in_link(console_url(settings, console), code)


def console_url(settings: Settings, console: str) -> str:
    """Where a browser on this machine reaches the console. console: "host:port" of its listener."""
    section = settings.console
    if section.public_url is not None:
        return section.public_url
    host, _, port = console.rpartition(":")
    local = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - compared
    return f"{'https' if section.tls else 'http'}://{local}:{port}"


def sign_in_link(base_url: str, code: str) -> str:
    """The link. Browsers do not send what stands behind the `#`, so no log has the code."""
    return f"{base_url}/console/sign-in#{code}"
