"""The ledger's user: what it must be allowed is asked at the start, and is all that is needed."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from gateway.app.ledger_server import RemoteServer, Where
from gateway.app.parts import CannotStart
from gateway.ledger.audit import Audit
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.rights import NAMES, missing_rights
from gateway.ledger.client.scripts import lua_folder
from gateway.ledger.codec.key_names import Keys
from tests.ledger.servers import OwnServer, server
from tests.support.gate import running_gate
from tests.support.loose_ledger import LooseLedger
from tests.support.stores import sqlite_access
from tests.support.upstreams import Sim, sim

__all__ = ["sim"]


@pytest.fixture
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnServer]:
    with server(tmp_path_factory.mktemp("own")) as started:
        yield started


async def user(own: OwnServer, *rules: str) -> str:
    """Make a user with the keys, channels and commands that are needed, and these rules; its URL."""
    admin: Any = redis.asyncio.Redis(unix_socket_path=str(own.socket))
    needed = [f"+{name.lower()}" for name in sorted(NAMES)]
    await admin.execute_command(
        "ACL", "SETUSER", "gate", "reset", "on", ">secret", "~{cg*", "&{cg}:*", *needed, *rules
    )
    await admin.aclose()
    return f"unix://gate:secret@{own.socket}"


async def missing(url: str) -> list[str]:
    client = Endpoint.from_url(url).client(name="test")
    try:
        return await missing_rights(client, "cg")
    finally:
        await client.aclose()


def test_what_is_asked_for_is_what_the_scripts_call() -> None:
    called = set()
    for path in lua_folder().glob("*.lua"):
        called |= set(re.findall(r"call\('([A-Z]+)'", path.read_text()))
    assert called <= NAMES


async def test_nothing_is_missing_and_nothing_is_left_behind(own: OwnServer) -> None:
    assert await missing(await user(own)) == []
    admin: Any = redis.asyncio.Redis(unix_socket_path=str(own.socket))
    assert await admin.dbsize() == 0
    await admin.aclose()


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (("-hset",), ["HSET"]),
        (("-script",), ["SCRIPT LOAD"]),
        (("-exec", "-watch"), ["EXEC", "WATCH"]),
        (("-publish", "-xtrim"), ["PUBLISH", "XTRIM"]),
        (("resetchannels",), ["the channel {cg}:changes"]),
        (("resetkeys", "~{cg:*"), ["the keys {cg}:*"]),
        (("resetkeys", "~{cg}:*"), ["the keys {cg:0}:*"]),
    ],
)
async def test_what_is_missing_is_named(
    own: OwnServer, rules: tuple[str, ...], named: list[str]
) -> None:
    assert await missing(await user(own, *rules)) == named


async def test_a_start_names_the_user_and_what_it_may_not(own: OwnServer, tmp_path: Path) -> None:
    url = await user(own, "-hset", "-zadd")
    remote = RemoteServer(url, "none", Where("cg", 4, sqlite_access(tmp_path / "events.db")))
    with pytest.raises(CannotStart, match="its user gate may not use: HSET, ZADD"):
        await remote.start()
    await remote.stop()


async def test_a_gate_needs_no_more_than_that(own: OwnServer, tmp_path: Path, sim: Sim) -> None:
    """Neither CONFIG nor CLIENT SETNAME among them."""
    url = await user(own)
    assert not {"CLIENT", "CONFIG"} & NAMES
    async with running_gate(tmp_path, own.socket, sim.url, ledger_url=url, empty=False) as gate:
        assert (await gate.chat("hi\nsim: tokens=3")).status_code == 200
        await gate.store.keys.add("d" * 64, "k1", "acme")
        await gate.ledger.account("acme", account_rev=2, frozen=True)
        assert (await gate.chat("hi\nsim: tokens=3")).status_code == 402
        assert len(await gate.events()) == 1
    remote = RemoteServer(url, "none", Where("cg", 4, sqlite_access(tmp_path / "events.db")))
    assert await remote.start() == url
    assert await remote.look() == await remote.look()
    assert (await remote.look()).problem is None
    await remote.stop()


async def test_a_shard_is_verified_by_a_user_that_may_not_join(own: OwnServer) -> None:
    """`SORT_RO … GET` would need the right to read every key of the server."""
    client = Endpoint.from_url(await user(own)).client(name="test")
    ledger = LooseLedger(RedisRunner(client), shard_count=1)
    await ledger.account("acme", account_rev=1)
    await ledger.grant("acme", "g1", 5_000)
    audit = Audit(client, Keys("cg", 1))
    assert list((await audit.snapshot(0)).wallets) == ["acme"]
    await client.aclose()


async def test_the_documented_user_has_all_of_them(own: OwnServer) -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "operations.md").read_text()
    line = re.search(r"^ACL SETUSER gate on >PASSWORD (.*)$", page, re.M)
    assert line is not None
    admin: Any = redis.asyncio.Redis(unix_socket_path=str(own.socket))
    await admin.execute_command(
        "ACL", "SETUSER", "gate", "reset", "on", ">secret", *line[1].split()
    )
    await admin.aclose()
    assert await missing(f"unix://gate:secret@{own.socket}") == []
