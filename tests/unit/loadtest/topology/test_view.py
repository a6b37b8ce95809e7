"""CLUSTER NODES as members with roles and slots."""

from loadtest.topology.view import Member, parse_nodes, slots_of

TEXT = """\
aaa 127.0.0.1:7000@17000 myself,master - 0 0 7 connected 0-2 5 [9->-bbb] [10-<-bbb]
bbb 127.0.0.1:7001@17001,host-b master,fail - 1 2 8 disconnected 9-10
ccc 127.0.0.1:7002@17002 slave aaa 0 1 7 connected
ddd :0@0 handshake - 0 0 0 disconnected
"""


def test_slots_on_their_way_are_not_counted() -> None:
    first, second, third, _ = parse_nodes(TEXT)
    assert first.slots == {0, 1, 2, 5}
    assert second.slots == {9, 10}
    assert third.slots == frozenset()
    assert slots_of([first, second, third]) == 6


def test_roles_come_from_the_flags() -> None:
    first, second, third, fourth = parse_nodes(TEXT)
    assert first == Member("aaa", frozenset({"myself", "master"}), "", 7, frozenset({0, 1, 2, 5}))
    assert (first.is_self, first.is_primary, first.is_unsettled) == (True, True, False)
    assert (second.is_self, second.is_primary, second.is_unsettled) == (False, True, True)
    assert (third.is_primary, third.primary_id, third.is_unsettled) == (False, "aaa", False)
    assert fourth.is_unsettled
