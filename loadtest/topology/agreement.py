"""Whether the nodes of a cluster agree with one another, and if not, on what."""

from collections.abc import Mapping
from typing import Final

from loadtest.topology.node import Node
from loadtest.topology.view import SLOTS, Member, parse_nodes, slots_of

LOOK_S: Final = 0.5
"""How long a node may take to say what it sees; one that is cut off or frozen takes forever."""


def seen_by(node: Node) -> list[Member]:
    """Return the members as this node sees them. Raises redis.RedisError."""
    return parse_nodes(node.ask("CLUSTER", "NODES", timeout_s=LOOK_S))


def disagreement(ids: Mapping[Node, str]) -> str:
    """Say what these nodes do not agree on; empty once each sees all, the same roles and all slots,
    holds the cluster for ok and, as a replica, is in step.

    ids: the nodes with their ids in the cluster. Raises redis.RedisError.
    """
    maps = set()
    for node, own_id in ids.items():
        seen = seen_by(node)
        members = [one for one in seen if one.node_id in ids.values()]
        strangers = [one for one in seen if "handshake" in one.flags]
        if len(members) != len(ids) or strangers:
            return f"{node} knows {len(members)} of {len(ids)} and greets {len(strangers)}"
        lost = [one.node_id for one in members if one.is_unsettled]
        if lost:
            return f"{node} ({own_id}) has lost {lost}"
        if slots_of(members) != SLOTS:
            return f"{node} sees {slots_of(members)} slots with an owner"
        maps.add(frozenset(one.role for one in members))
    if len(maps) != 1:
        return f"there are {len(maps)} opinions on roles and slots"
    return next(filter(None, map(_lag, ids)), "")


def _lag(node: Node) -> str:
    """What keeps the node from serving, or its data from being its primary's."""
    if "cluster_state:ok" not in node.ask("CLUSTER", "INFO"):
        return f"{node} holds the cluster for down"
    replication = node.info("replication")
    if replication["role"] == "slave" and replication["master_link_status"] != "up":
        return f"{node} has no link to its primary:\n{node.log_tail(5)}"
    return ""
