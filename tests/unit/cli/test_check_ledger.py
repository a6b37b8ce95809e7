"""`check --connect` on real servers: what the ledger allows, and the words of a refused start."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gateway.app.ledger_server import RemoteServer, Where
from gateway.app.parts import CannotStart
from gateway.ledger.client.durability import PROMISES
from gateway.ledger.client.rights import NAMES
from tests.ledger.servers import OwnServer, server
from tests.support.stores import sqlite_access

from .desk import Desk


def desk_on(folder: Path, redis: object) -> Desk:
    """A configuration with this section `redis`."""
    document = {
        "data_dir": str(folder / "data"),
        "redis": redis,
        "upstreams": {"up": {"base_url": "http://127.0.0.1:9/v1"}},
        "models": {
            "m": {"upstream": "up", "max_output_tokens": 9, "prices": {"input": 1, "output": 1}}
        },
    }
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(document))
    return Desk(path)


async def refusal(url: str, folder: Path) -> str:
    """With which words a gate refuses to start on a server."""
    remote = RemoteServer(url, None, Where("cg", 64, sqlite_access(folder / "events.db")))
    with pytest.raises(CannotStart) as refused:
        await remote.start()
    await remote.stop()
    return str(refused.value)


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[OwnServer]:
    """A server whose user `gate` has no CONFIG and cannot write hashes."""
    needed = [f"+{name.lower()}" for name in sorted(NAMES - {"HSET"})]
    with server(
        tmp_path / "limited", "--user", "gate", "on", ">secret", "~{cg*", "&{cg}:*", *needed
    ) as own:
        yield own


async def test_a_fit_ledger_is_shown_with_what_it_keeps(tmp_path: Path) -> None:
    with server(tmp_path / "own", "--appendonly", "yes", "--appendfsync", "always") as own:
        desk = desk_on(tmp_path, f"unix://{own.socket}")
        said = await desk.run("check", str(desk.config), "--connect")
        document = json.loads(
            (await desk.run("check", str(desk.config), "--connect", "--json")).out
        )
    assert said.code == 0, said
    assert f"Ledger: single server, unix://{own.socket}" in said.out
    assert PROMISES["aof_always"] in said.out
    assert "A gate starts on this ledger." in said.out
    assert document["ok"] is True
    ledger = document["ledger"]
    assert (ledger["refusal"], ledger["topology"]) == (None, "single server")
    assert ledger["nodes"][0]["kept"]["persistence"] == "aof_always"


async def test_a_refused_start_is_said_in_the_same_words(
    limited: OwnServer, tmp_path: Path
) -> None:
    url = f"unix://gate:secret@{limited.socket}"
    words = await refusal(url, tmp_path)
    desk = desk_on(tmp_path, url)
    said = await desk.run("check", str(desk.config), "--connect")
    assert said.code == 1
    assert f"A gate does not start: {words}" in said.out
    assert "secret" not in said.out
    said = await desk.run("check", str(desk.config), "--connect", "--json")
    assert said.code == 1
    document = json.loads(said.out)
    assert document["ok"] is False
    assert document["ledger"]["refusal"] == words
    assert document["ledger"]["nodes"][0]["missing_rights"] == ["HSET"]
    assert document["ledger"]["nodes"][0]["settings"] is None


async def test_a_server_that_evicts_is_refused_and_still_shown(tmp_path: Path) -> None:
    with server(tmp_path / "own", "--maxmemory-policy", "allkeys-lru") as own:
        url = f"unix://{own.socket}"
        words = await refusal(url, tmp_path)
        desk = desk_on(tmp_path, url)
        said = await desk.run("check", str(desk.config), "--connect")
    assert said.code == 1
    assert "allkeys-lru" in words
    assert f"A gate does not start: {words}" in said.out
    assert "Valkey 9." in said.out


async def test_a_ledger_of_other_shards_is_refused(tmp_path: Path) -> None:
    with server(tmp_path / "own") as own:
        desk = desk_on(tmp_path, {"url": f"unix://{own.socket}", "shards": 8})
        assert (await desk.run("check", str(desk.config), "--connect")).code == 0
        assert (await desk.run("verify")).code == 0  # creates the ledger
        other = desk_on(tmp_path, {"url": f"unix://{own.socket}", "shards": 16})
        said = await other.run("check", str(other.config), "--connect")
    assert said.code == 1
    assert "the ledger was created with 8 shards, not 16" in said.out


async def test_a_server_that_is_away_is_refused(tmp_path: Path) -> None:
    desk = desk_on(tmp_path, f"unix://{tmp_path / 'nothing'}")
    said = await desk.run("check", str(desk.config), "--connect")
    assert said.code == 1
    assert "does not answer" in said.out


async def test_an_embedded_ledger_that_does_not_run_is_not_started(tmp_path: Path) -> None:
    desk = desk_on(tmp_path, "embedded")
    said = await desk.run("check", str(desk.config), "--connect")
    assert said.code == 0, said
    assert "Ledger: embedded" in said.out
    assert "It does not run now" in said.out
    assert not (tmp_path / "data" / "ledger").exists()


async def test_without_connect_nothing_is_asked(tmp_path: Path) -> None:
    desk = desk_on(tmp_path, f"unix://{tmp_path / 'nothing'}")
    said = await desk.run("check", str(desk.config))
    assert said.code == 0
    assert "Ledger:" not in said.out
