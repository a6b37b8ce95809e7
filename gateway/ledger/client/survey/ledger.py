"""All servers of a ledger: asked at the same time, and then each alone for its round trip and clock."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import redis.asyncio
from redis.exceptions import ClusterDownError

from gateway.ledger.client.cluster.client import ClusterClient, nodes_of
from gateway.ledger.client.durability import Persistence
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import unavailable
from gateway.ledger.client.survey.managed import ManagedService, recognise
from gateway.ledger.client.survey.node import NodeReport, Probe, survey_node, time_node
from gateway.ledger.codec.key_names import Keys

Topology = Literal["embedded", "single server", "cluster", "server behind Sentinels"]
_HOST: Final = re.compile(r"[\w.-]+\.[\w.-]*\w")


@dataclass(frozen=True, slots=True)
class LedgerSurvey:
    """What was found. shown: where the ledger is, without secrets. managed: the service that runs it"""

    topology: Topology
    shown: str
    nodes: tuple[NodeReport, ...]
    managed: ManagedService | None = None

    @classmethod
    def unasked(cls, shown: str) -> "LedgerSurvey":
        """Of servers that do not answer. A managed one may still have a name that says so."""
        return cls(topology_of(shown), shown, (), recognise(_HOST.findall(shown), {}))

    @property
    def clock_skew_ms(self) -> float | None:
        """Between the clocks that are furthest apart; None with fewer than two."""
        ahead = [
            node.timing.clock_ahead_ms
            for node in self.nodes
            if node.timing is not None and node.timing.clock_ahead_ms is not None
        ]
        return max(ahead) - min(ahead) if len(ahead) > 1 else None


def topology_of(url: str) -> Topology:
    """How the servers of a URL work together."""
    scheme = url.partition("://")[0]
    if scheme.endswith("+cluster"):
        return "cluster"
    return "server behind Sentinels" if scheme.endswith("+sentinel") else "single server"


async def survey_ledger(
    client: redis.asyncio.Redis, shown: str, keys: Keys, declared: Persistence | None = None
) -> LedgerSurvey:
    """Ask every primary. Raises LedgerUnavailable if none is known.

    shown: of the endpoint. declared: the persistence where a server does not say it
    """
    with unavailable():
        nodes = await nodes_of(client)
    cluster: Any = client  # what a cluster's endpoint calls a client of redis-py
    by_node = _shard_keys(cluster, keys) if isinstance(cluster, ClusterClient) else None
    every = [keys.prefix(shard) + b"probe" for shard in range(keys.shard_count)]
    probes = [
        Probe(
            name or _address(shown),
            keys.namespace,
            every if by_node is None else by_node.get(name, []),
            declared,
        )
        for name, _ in nodes
    ]
    answers: list[tuple[NodeReport, Mapping[str, Any]]] = await asyncio.gather(
        *(survey_node(node, probe) for (_, node), probe in zip(nodes, probes, strict=True))
    )
    reports = [
        await _timed(report, node) for (report, _), (_, node) in zip(answers, nodes, strict=True)
    ]
    hosts = _HOST.findall(" ".join([shown, *(name for name, _ in nodes)]))
    info = next((info for _, info in answers if info), {})
    return LedgerSurvey(
        topology=topology_of(shown),
        shown=shown,
        nodes=tuple(reports),
        managed=recognise(hosts, info),
    )


async def _timed(report: NodeReport, client: redis.asyncio.Redis) -> NodeReport:
    if report.away is not None:
        return report
    try:
        return replace(report, timing=await time_node(client))
    except LedgerUnavailable as error:
        return replace(report, away=str(error))


def _shard_keys(client: ClusterClient, keys: Keys) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for shard in range(keys.shard_count):
        key = keys.prefix(shard) + b"probe"
        try:
            found.setdefault(client.node_of(key).host_and_port, []).append(key)
        except ClusterDownError:  # nobody has its slot
            continue
    return found


def _address(shown: str) -> str:
    """HOST:PORT of a URL, or the path of a socket."""
    scheme, _, rest = shown.partition("://")
    return rest if scheme == "unix" else rest.rpartition("@")[2].partition("/")[0]
