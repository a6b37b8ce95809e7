"""Which server the Sentinels name as the primary, and which of their answers counts."""

import re
from pathlib import Path

import pytest

from gateway.app.ledger_server import RemoteServer, Where
from gateway.app.parts import CannotStart
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.sentinel.endpoint import SentinelEndpoint
from gateway.ledger.client.sentinel.finder import Named, PrimaryFinder
from gateway.ledger.following import Moves, NotPrimary
from loadtest.topology.sentinels import Sentinels
from tests.support.stores import sqlite_access

OLD, NEW, OTHER = ("old", 1), ("new", 1), ("other", 1)


class Told(PrimaryFinder):
    """A finder whose Sentinels say what a test has them say; None: nothing."""

    def __init__(self, count: int = 3) -> None:
        self.moves = Moves()
        self.reasons: list[str] = []
        self.moves.drop_at_switch(self)
        sentinels = [Endpoint.from_url(f"redis://s{n}:26379") for n in range(count)]
        super().__init__("ledger", sentinels, self.moves)

    def say(self, *answers: Named | None) -> "Told":
        self.answers = dict(zip(self.sentinels, answers, strict=True))
        return self

    async def _ask(self, sentinel: Endpoint) -> Named | NotPrimary:
        return self.answers[sentinel] or NotPrimary(f"{sentinel.host_and_port} does not answer")

    def drop(self, reason: str) -> None:
        self.reasons.append(reason)

    async def address(self) -> tuple[str, int]:
        host, port, _ = await self.find()
        return host, port


async def test_the_newest_failover_counts_whoever_knows_of_it() -> None:
    told = Told().say(Named(1, OLD), Named(2, NEW), Named(1, OLD))
    assert await told.address() == NEW
    assert await told.say(Named(1, OLD), Named(1, OLD), Named(2, NEW)).address() == NEW
    assert told.reasons == []  # nothing was connected to the old one


async def test_a_switch_drops_connections_once_and_says_where_to() -> None:
    told = Told().say(*[Named(1, OLD)] * 3)
    _, _, known = await told.find()
    for lagging in (Named(1, OLD), None, Named(2, NEW)):
        told.say(Named(2, NEW), lagging, Named(1, OLD))
        host, port, newer = await told.find()
        assert (host, port) == NEW
    assert told.reasons == ["the primary of ledger has been replaced by new:1"]
    assert known < newer == told.moves.count


async def test_what_was_asked_before_another_move_is_older_than_it() -> None:
    told = Told().say(*[Named(1, OLD)] * 3)
    await told.find()
    before = told.moves.count
    told.moves.moved()
    assert (await told.find())[2] == told.moves.count > before


async def test_a_minority_that_lags_does_not_lead_back() -> None:
    told = Told().say(*[Named(2, NEW)] * 3)
    await told.address()
    assert await told.say(Named(1, OLD), None, None).address() == NEW
    assert told.reasons == []


async def test_a_majority_is_believed_after_its_epochs_began_anew() -> None:
    told = Told().say(*[Named(7, OLD)] * 3)
    await told.address()
    assert await told.say(Named(0, OTHER), Named(0, OTHER), None).address() == OTHER
    assert len(told.reasons) == 1


async def test_without_an_answer_each_sentinel_is_named_with_its_reason() -> None:
    told = Told(2).say(None, None)
    says = "primary of ledger: s0:26379 does not answer; s1:26379 does not answer"
    with pytest.raises(NotPrimary, match=re.escape(says)):
        await told.find()


async def test_real_sentinels_name_the_primary(
    watched: Sentinels, endpoint: SentinelEndpoint
) -> None:
    host, port, _ = await endpoint.finder.find()
    address = watched.primary().address
    assert (host, port) == (address.host, address.port)


async def test_a_start_with_the_wrong_name_of_the_service_says_what_is_wrong(
    watched: Sentinels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.app.ledger_server.WAIT_FOR_SERVER_S", 0.0)
    url = f"redis+sentinel://{watched.addresses[0]}/legder"
    remote = RemoteServer(url, None, Where("cg", 4, sqlite_access(tmp_path / "events.db")))
    with pytest.raises(CannotStart, match="does not watch a service of that name"):
        await remote.start()
    await remote.stop()


async def test_one_that_is_frozen_and_one_that_is_dead_are_done_without(
    watched: Sentinels, endpoint: SentinelEndpoint
) -> None:
    frozen, dead, _ = watched.sentinels
    frozen.freeze()
    dead.kill9()
    try:
        host, port, _ = await endpoint.finder.find()
    finally:
        frozen.thaw()
        dead.restart()
    address = watched.primary().address
    assert (host, port) == (address.host, address.port)
