"""URLs of a service that Sentinels watch, and the ways in."""

import asyncio
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.ledger.client.endpoint import BadLedgerUrl
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.runner import CoalescingRunner
from gateway.ledger.client.sentinel.endpoint import SentinelEndpoint
from gateway.ledger.client.servers import locate, open_runner
from loadtest.tls import make_tls_files
from loadtest.topology.options import Access, Options
from loadtest.topology.sentinels import SERVICE, Sentinels
from tests.ledger.client.sentinel.conftest import hosts
from tests.support.until import until

PASSWORD = "p@ss/word#1"
QUOTED = "p%40ss%2Fword%231"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis+sentinel://a:1,b/svc", "redis+sentinel://a:1,b:26379/svc/0"),
        ("redis+sentinel://a:1/svc/3", "redis+sentinel://a:1/svc/3"),
        ("redis+sentinel://us%40er:hush@a/svc", "redis+sentinel://us%40er@a:26379/svc/0"),
        ("rediss+sentinel://:hush@[::1]:7,b:2/s%20c", "rediss+sentinel://[::1]:7,b:2/s%20c/0"),
        (
            "redis+sentinel://a/svc?sentinel_username=eve&sentinel_password=hush",
            "redis+sentinel://a:26379/svc/0",
        ),
    ],
)
def test_an_endpoint_shows_sentinels_service_and_user_only(url: str, shown: str) -> None:
    endpoint = locate(url)
    assert isinstance(endpoint, SentinelEndpoint)
    assert endpoint.shown == shown
    assert "hush" not in f"{endpoint!r} {endpoint.finder.sentinels!r}"


def test_each_kind_of_server_has_credentials_of_its_own() -> None:
    endpoint = SentinelEndpoint.from_url(
        "redis+sentinel://gate:one@a,b:7/svc/2?sentinel_username=eve&sentinel_password=t%26wo"
    )
    assert (endpoint.user, endpoint.database) == ("gate", 2)
    entered = [
        (each.user, each._arguments["password"], each.address, each.database)
        for each in endpoint.finder.sentinels
    ]
    assert entered == [("eve", "t&wo", ("a", 26379), 0), ("eve", "t&wo", ("b", 7), 0)]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+sentinel://gate:hush@a:1", "HOST:PORT/SERVICE"),
        ("redis+sentinel://gate:hush@a:1/", "HOST:PORT/SERVICE"),
        ("redis+sentinel:///svc", "needs HOST:PORT"),
        ("redis+sentinel://gate:hush@a:1,,b/svc", "commas between them"),
        ("redis+sentinel://gate:hu/sh@a:1/svc", "percent-encoded"),
        ("redis+sentinel://gate:hu#sh@a:1/svc", "%23"),
        ("redis+sentinel://gate:hush@a:1/svc/hush", "must be a database's number"),
        ("redis+sentinel://gate:hush@a:1/svc/1/2", "must be a database's number"),
        ("redis+sentinel://gate:hush@a:1/svc?timeout=1", "not allowed: timeout"),
    ],
)
def test_a_bad_url_is_refused_without_repeating_it(url: str, says: str) -> None:
    with pytest.raises(BadLedgerUrl, match=says) as caught:
        locate(url)
    assert "hush" not in "".join(traceback.format_exception(caught.value))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    """Servers that only `gate` may enter, and a Sentinel that only `eve` may."""
    options = Options(access=Access("gate", PASSWORD))
    folder = tmp_path_factory.mktemp("guarded")
    with Sentinels(folder, replicas=1, sentinels=1, options=options) as servers:
        rights = ["+sentinel|master", "+sentinel|get-master-addr-by-name", "+subscribe"]
        sentinel = servers.sentinels[0]
        sentinel.ask("ACL", "SETUSER", "eve", "on", ">hush-hush", "&*", "+ping", *rights)
        sentinel.ask("ACL", "SETUSER", "default", "off")
        yield servers


def url_of(servers: Sentinels, entry: str, service: str = SERVICE, options: str = "") -> str:
    return f"redis+sentinel://{entry}@{hosts(servers.addresses)}/{service}{options}"


EVE = "?sentinel_username=eve&sentinel_password=hush-hush"


async def test_the_hot_path_and_the_client_get_in_with_passwords(guarded: Sentinels) -> None:
    endpoint = locate(url_of(guarded, f"gate:{QUOTED}", options="/3" + EVE))
    client = endpoint.client(name="off-path")
    async with open_runner(endpoint, name="hot-path") as runner:
        assert runner.connected
        found = {c["name"]: c for c in await client.client_list()}
    assert (found["hot-path"]["user"], found["hot-path"]["db"]) == ("gate", "3")
    await client.aclose()


async def test_the_rights_that_are_documented_suffice_to_follow_switches(
    guarded: Sentinels,
) -> None:
    endpoint = locate(url_of(guarded, f"gate:{QUOTED}", options=EVE))
    with capture_logs() as logs:
        task = asyncio.create_task(endpoint.follow_switches())
        assert isinstance(endpoint, SentinelEndpoint)
        await until(lambda: endpoint.finder._last is not None)  # it asks once it is subscribed
        task.cancel()
        await asyncio.wait([task])
    assert logs == []


@pytest.mark.parametrize(
    ("entry", "options", "says"),
    [
        ("gate:hush", EVE, r"the ledger at \S+ refuses the user name or the password"),
        ("gate:hush", "", r"the sentinel at \S+ refuses the user name or the password"),
        (
            "gate:hush",
            EVE.replace("eve", "adam"),
            r"the sentinel at \S+ refuses the user name or the password",
        ),
    ],
)
async def test_a_wrong_password_is_said_and_not_shown(
    guarded: Sentinels, entry: str, options: str, says: str
) -> None:
    endpoint = locate(url_of(guarded, entry, options=options))
    with pytest.raises(LedgerUnavailable, match=says) as caught:
        await open_runner(endpoint, name="t").start()
    assert not caught.value.unknown
    assert "hush" not in "".join(traceback.format_exception(caught.value))


async def test_a_service_that_no_sentinel_knows_is_named(guarded: Sentinels) -> None:
    endpoint = locate(url_of(guarded, "gate:x", "other", EVE))
    says = rf"primary of other: {guarded.addresses[0]} does not watch a service of that name"
    with pytest.raises(LedgerUnavailable, match=says):
        await open_runner(endpoint, name="t").start()
    client = endpoint.client(name="t")
    with pytest.raises(LedgerUnavailable, match=says):
        await client.ping()
    await client.aclose()


async def test_sentinels_that_cannot_be_reached_are_named() -> None:
    endpoint = locate("redis+sentinel://127.0.0.1:1,127.0.0.1:2/svc")
    with pytest.raises(LedgerUnavailable, match=r"svc: .*127.0.0.1:1.*; .*127.0.0.1:2"):
        await open_runner(endpoint, name="t").start()


@pytest.mark.debian  # the embedded binary has no TLS
async def test_tls_is_spoken_to_servers_and_sentinels(tmp_path: Path) -> None:
    certificates = make_tls_files(tmp_path)
    options = Options(binary="/usr/bin/redis-server", access=Access(tls=certificates))
    with Sentinels(tmp_path, replicas=1, sentinels=1, options=options) as servers:
        base = f"rediss+sentinel://{hosts(servers.addresses)}/{SERVICE}"
        trusting = locate(f"{base}?ssl_ca_certs={certificates.authority}&ssl_check_hostname=no")
        runner = open_runner(trusting, name="t")
        assert isinstance(runner, CoalescingRunner)
        async with runner:
            assert runner.connected
        with pytest.raises(LedgerUnavailable, match="certificate verify failed"):
            await open_runner(locate(base), name="t").start()
