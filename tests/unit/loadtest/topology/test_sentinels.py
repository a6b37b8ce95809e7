"""Sentinels of real processes: whom they name before and after each kind of failure."""

import pytest

from loadtest.topology.options import Access, Options
from loadtest.topology.sentinels import Sentinels
from tests.support.topology import Topologies, shared_topologies

__all__ = ["shared_topologies"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sentinels(shared_topologies: Topologies) -> Sentinels:
    return shared_topologies.sentinels(options=Options(access=Access("gate", "pass word")))


def test_all_sentinels_name_the_primary_which_all_servers_follow(sentinels: Sentinels) -> None:
    primary = sentinels.primary()
    assert len(sentinels.replicas()) == 2
    assert primary not in sentinels.replicas()
    assert len({sentinel.primary_address() for sentinel in sentinels.sentinels}) == 1
    assert len({str(address) for address in sentinels.addresses}) == 3


def test_a_coordinated_failover_keeps_all_writes(sentinels: Sentinels) -> None:
    old = sentinels.primary()
    old.ask("SET", "kept", 1)
    new = sentinels.failover("COORDINATED")
    assert new is not old
    assert new.ask("GET", "kept") == "1"
    sentinels.wait_settled()
    assert old in sentinels.replicas()


def test_a_killed_primary_is_replaced_and_returns_as_a_replica(sentinels: Sentinels) -> None:
    old = sentinels.primary()
    old.ask("SET", "kept", 2)
    assert old.ask("WAIT", 2, 5000) == 2
    new = sentinels.kill(old)
    assert new is not old
    assert new.ask("GET", "kept") == "2"
    sentinels.rejoin(old)
    assert sentinels.primary() is new
    assert len(sentinels.replicas()) == 2


def test_a_sentinel_that_was_killed_remembers_the_primary(sentinels: Sentinels) -> None:
    primary = sentinels.primary()
    first = sentinels.sentinels[0]
    first.restart()
    assert first.primary_address() == (primary.address.host, primary.address.port)
    sentinels.wait_settled()


def test_a_frozen_primary_is_replaced(sentinels: Sentinels) -> None:
    old = sentinels.primary()
    assert sentinels.freeze(old) is not old
