"""From the URL of a service that Sentinels watch to connections to its primary."""

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from gateway.ledger.client.endpoint import BadLedgerUrl, Endpoint, split_hosts
from gateway.ledger.client.sentinel.finder import PrimaryFinder
from gateway.ledger.client.sentinel.switches import follow_switches

SCHEMES: Final = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
DEFAULT_PORT: Final = 26379
CREDENTIALS: Final = ("sentinel_username", "sentinel_password")
"""Options of the URL's query: how the Sentinels are entered. The user of the URL enters the servers."""


@dataclass(frozen=True, repr=False)
class SentinelEndpoint(Endpoint):
    """The primary of a service, whichever server that is.

    Each connection first asks the Sentinels for it, and is not used unless that server agrees.
    """

    finder: PrimaryFinder = field(compare=False, kw_only=True)

    def __repr__(self) -> str:
        return f"SentinelEndpoint({self.shown})"

    @classmethod
    def from_url(cls, url: str) -> "SentinelEndpoint":
        """Read `redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/DB` or `rediss+sentinel://…`.

        With the latter the servers and the Sentinels are both entered by TLS. Raises BadLedgerUrl.
        """
        scheme, _, rest = url.partition("://")
        base, _, query = rest.partition("?")
        entry_and_hosts, _, path = base.partition("/")
        service, _, database = path.strip("/").partition("/")
        if not service or "#" in base:
            raise BadLedgerUrl(
                f"a {scheme}:// URL of the ledger needs HOST:PORT/SERVICE: the name by which the"
                " sentinels know the primary (a # or / in a password is written as %23 or %2F)"
            )
        options = dict(parse_qsl(query, keep_blank_values=True))
        user, password = (quote(options.pop(name, ""), safe="") for name in CREDENTIALS)
        rest_of_query = urlencode(options)
        servers = f"{scheme}://{entry_and_hosts}/{database}?{rest_of_query}"
        server = Endpoint.from_url(split_hosts(servers, SCHEMES)[0])
        hosts = entry_and_hosts.rpartition("@")[2]
        entry = f"{user}:{password}@" if user or password else ""
        sentinels = [
            _with_port(Endpoint.from_url(each))
            for each in split_hosts(f"{scheme}://{entry}{hosts}/?{rest_of_query}", SCHEMES)
        ]
        finder = PrimaryFinder(unquote(service), sentinels, server.moves)
        shown_user = "" if server.user == "default" else f"{quote(server.user, safe='')}@"
        shown = f"{scheme}://{shown_user}{finder.shown}/{service}/{server.database}"
        arguments = {**server._arguments, "finder": finder}
        return cls(shown, arguments, server._connection_class, server.moves, finder=finder)

    async def follow_switches(self) -> None:
        """See `Endpoint.follow_switches`."""
        await follow_switches(self.finder)


def _with_port(sentinel: Endpoint) -> Endpoint:
    """At the port of Sentinels, if the URL names none."""
    if "port" in sentinel._arguments:
        return sentinel
    return sentinel.at(sentinel.address[0], DEFAULT_PORT)
