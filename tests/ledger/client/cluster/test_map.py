"""The map of a cluster's slots: from what nodes say, and from a real cluster that changes."""

import asyncio
import time

import pytest

from gateway.ledger.client.cluster.endpoint import ClusterEndpoint
from gateway.ledger.client.cluster.map import AGAIN_S, WANTED_S, ClusterMap, epochs_of, read_view
from gateway.ledger.client.endpoint import BadLedgerUrl, Endpoint
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.key_names import Keys
from loadtest.topology.cluster import Cluster
from loadtest.topology.moves import move_atomic
from tests.support.until import until

HERE = ("10.0.0.1", 7000)
NODES = b"""\
aaa 10.0.0.1:7000@17000 myself,master - 0 0 3 connected 0-99
bbb 10.0.0.2:7000@17000,db-b.internal slave aaa 0 0 3 connected
"""
WHOLE = read_view(HERE, [[0, 16383, [b"10.0.0.1", 7000, b"aaa"]]], {"aaa": 3})


def test_epochs_are_read_by_the_ids_of_nodes() -> None:
    assert epochs_of(NODES) == {"aaa": 3, "bbb": 3}


@pytest.mark.parametrize("host", [b"", None, b"?"])
def test_an_address_without_a_host_is_that_of_the_node_that_was_asked(host: bytes | None) -> None:
    view = read_view(HERE, [[0, 99, [host, 7001, b"aaa", []]]], {"aaa": 3})
    assert [claim.owner for claim in view.claims] == [("10.0.0.1", 7001)]
    assert view.claims[0].epoch == 3


def test_a_node_whose_host_name_is_not_known_is_found_by_its_ip() -> None:
    slots = [[0, 99, [b"?", 7001, b"bbb", [b"ip", b"10.0.0.2"]]]]
    assert [claim.owner for claim in read_view(HERE, slots, {}).claims] == [("10.0.0.2", 7001)]


def test_replicas_are_asked_too_but_own_nothing() -> None:
    slots = [[0, 99, [b"10.0.0.1", 7000, b"aaa"], [b"10.0.0.2", 7000, b"bbb"]]]
    view = read_view(HERE, slots, {})
    assert view.nodes == (HERE, ("10.0.0.2", 7000))
    assert [claim.owner for claim in view.claims] == [HERE]


def test_of_two_claims_the_one_with_the_higher_epoch_counts() -> None:
    slots = ClusterMap([Endpoint.from_url("redis://10.0.0.1:7000")])
    old = read_view(HERE, [[0, 16383, [b"10.0.0.1", 7000, b"aaa"]]], {"aaa": 3})
    new = read_view(
        ("10.0.0.2", 7000), [[0, 16383, [b"10.0.0.2", 7000, b"bbb"]]], {"aaa": 3, "bbb": 7}
    )
    for views in ([old, new], [new, old]):
        slots._take(views)
        assert slots.owner(12).address == ("10.0.0.2", 7000)
        assert [node.address for node in slots.primaries] == [("10.0.0.2", 7000)]


def test_a_part_that_was_moved_away_counts_against_the_rest() -> None:
    slots = ClusterMap([Endpoint.from_url("redis://10.0.0.1:7000")])
    old = read_view(HERE, [[0, 16383, [b"10.0.0.1", 7000, b"aaa"]]], {"aaa": 3})
    new = read_view(
        ("10.0.0.2", 7000),
        [[0, 99, [b"10.0.0.2", 7000, b"bbb"]], [100, 16383, [b"10.0.0.1", 7000, b"aaa"]]],
        {"aaa": 3, "bbb": 7},
    )
    slots._take([old, new])
    assert slots.owner(99).address == ("10.0.0.2", 7000)
    assert slots.owner(100).address == HERE


async def test_a_slot_that_nobody_has_is_unavailable() -> None:
    slots = ClusterMap([Endpoint.from_url("redis://127.0.0.1:1")])
    with pytest.raises(LedgerUnavailable, match="no node"):
        slots.owner(5)
    with pytest.raises(LedgerUnavailable, match="cannot be read"):
        await slots.refresh()


def test_what_was_learned_holds_until_all_are_asked() -> None:
    slots = ClusterMap([Endpoint.from_url("redis://10.0.0.1:7000")])
    view = read_view(HERE, [[0, 16383, [b"10.0.0.1", 7000, b"aaa"]]], {})
    slots._take([view])
    slots.owner(7)
    slots._owners[7] = ("10.0.0.9", 1)
    assert slots.owner(7).address == ("10.0.0.9", 1)
    slots._take([view])
    assert slots.owner(7).address == HERE


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+cluster://", "HOST:PORT"),
        ("redis+cluster://a:1,", "HOST:PORT"),
        ("redis+cluster://a:1,b:x", "malformed"),
        ("redis+cluster://a:1,b:2/3", "one database"),
        ("redis+cluster://u:secret@a:1,b:2?nope=1", "not allowed: nope"),
        ("redis+cluster://u:se#cret@a:1", "malformed"),
    ],
)
def test_a_url_that_is_no_cluster_says_why_and_keeps_its_secret(url: str, says: str) -> None:
    with pytest.raises(BadLedgerUrl, match=says) as caught:
        ClusterEndpoint.from_url(url)
    assert "cret" not in str(caught.value)


def test_a_url_names_each_node_with_the_same_user_and_options() -> None:
    endpoint = ClusterEndpoint.from_url(
        "rediss+cluster://gate:secret@a:1,[::1]:2,c?ssl_check_hostname=no"
    )
    assert repr(endpoint) == "ClusterEndpoint(rediss+cluster://a:1,[::1]:2,c:6379)"
    assert endpoint.user == "gate"
    node = endpoint.map.node(("10.0.0.9", 7))
    assert node.shown == "rediss://gate@10.0.0.9:7/0"
    assert node._arguments["password"] == "secret"
    assert node._arguments["ssl_check_hostname"] is False
    assert "secret" not in repr(endpoint) + repr(node)


async def test_every_shard_has_the_owner_that_the_cluster_names(
    endpoint: ClusterEndpoint, cluster: Cluster
) -> None:
    await endpoint.map.refresh()
    for key in [Keys().common("keys"), *(Keys().meta(shard) for shard in range(64))]:
        owner = cluster.primary_of(key)
        node = endpoint.map.owner(endpoint.map.slot_of(key))
        assert node.address == (owner.address.host, owner.address.port)


async def test_a_slot_that_has_moved_is_found_when_the_map_is_asked_again(
    endpoint: ClusterEndpoint, cluster: Cluster
) -> None:
    await endpoint.map.refresh()
    slot = endpoint.map.slot_of(Keys().meta(3))
    before = endpoint.map.owner(slot)
    target = next(node for node in cluster.primaries() if node.address.port != before.address[1])
    move_atomic(cluster, slot, slot, target)
    endpoint.map.suspect()
    await until(lambda: endpoint.map.owner(slot) is not before)
    assert endpoint.map.owner(slot).address[1] == target.address.port


async def test_many_hints_make_few_questions() -> None:
    asked = 0

    class Counted(ClusterMap):
        async def _refresh(self) -> None:
            nonlocal asked
            asked += 1
            self._take([WHOLE])

    slots = Counted([Endpoint.from_url("redis://10.0.0.1:7000")])
    began = time.monotonic()
    while time.monotonic() - began < 1.0:
        slots.suspect()  # as each call does that is answered CLUSTERDOWN
        await asyncio.sleep(0.001)
    assert 2 <= asked <= 1 + 1.0 / AGAIN_S


async def test_a_node_that_has_forgotten_the_cluster_is_not_believed() -> None:
    slots = ClusterMap([Endpoint.from_url("redis://10.0.0.1:7000")])
    slots._take([WHOLE])
    with pytest.raises(LedgerUnavailable, match="no node that answers knows"):
        slots._believe([read_view(("10.0.0.2", 7000), [], {})])
    assert slots.owner(7).address == HERE


async def test_a_node_that_gets_keys_and_does_not_answer_is_not_waited_for() -> None:
    """It owns nothing yet, and every reader is sent there by the node that has the slot."""
    slots, nobody = ClusterMap([Endpoint.from_url("redis://127.0.0.1:1")]), ("127.0.0.1", 2)
    slots._take([WHOLE])
    slots.suspect(slots.sent_to(nobody).address)
    assert not slots.is_gone(nobody)
    await until(lambda: slots.is_gone(nobody))
    slots._wanted[nobody] -= WANTED_S  # nobody has been sent there for as long
    await until(lambda: nobody not in slots.away)
