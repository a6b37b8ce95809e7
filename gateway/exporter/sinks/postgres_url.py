"""A Postgres URL, as each of the two drivers takes it, and as people may see it.

libpq's parameters are the form that people have (postgresql.org/docs/current/libpq-connect.html). psycopg
uses libpq; asyncpg reads most of them itself, and sends what it does not know to the server as a setting.
"""

from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

_NOT_FOR_ASYNCPG: Final = frozenset(
    {
        "channel_binding",
        "client_encoding",
        "connect_timeout",
        "fallback_application_name",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "require_auth",
        "sslcompression",
        "tcp_user_timeout",
    }
)
"""Parameters of libpq that asyncpg would send to the server, which refuses them."""


def for_asyncpg(url: str) -> str:
    """The URL without what asyncpg cannot take."""
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    kept = [(name, value) for name, value in pairs if name not in _NOT_FOR_ASYNCPG]
    return parts._replace(query=urlencode(kept, quote_via=quote)).geturl()


def shown(url: str, schema: str) -> str:
    """User, hosts, database and schema: no password, no other parameter."""
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query))
    login, _, hosts = parts.netloc.rpartition("@")
    user = given.get("user") or unquote(login.partition(":")[0])
    where = unquote(hosts) or given.get("host", "")
    if "port" in given:
        where += f":{given['port']}"
    database = given.get("dbname") or unquote(parts.path[1:])
    return f"postgresql://{user}{'@' if user else ''}{where}/{database} (schema {schema})"
