"""From the URL of a cluster to its map, and to the connections of the hot path and of everything else."""

import asyncio
from typing import Any, Final, cast

import redis.asyncio

from gateway.ledger.client.cluster.client import ClusterClient
from gateway.ledger.client.cluster.map import ClusterMap
from gateway.ledger.client.cluster.runner import ClusterRunner
from gateway.ledger.client.endpoint import BadLedgerUrl, Endpoint, split_hosts
from gateway.ledger.following import Moves

SCHEMES: Final = {"redis+cluster": "redis", "rediss+cluster": "rediss"}


class ClusterEndpoint:
    """Where the nodes of a cluster are and how to enter.

    shown: the addresses without any secret, for logs and errors. moves: of no use here; each node's
    connections follow that node
    """

    def __init__(self, shown: str, seeds: list[Endpoint]) -> None:
        self.shown = shown
        self.user = seeds[0].user
        self.moves = Moves()
        self.map = ClusterMap(seeds)

    def __repr__(self) -> str:
        return f"ClusterEndpoint({self.shown})"

    @classmethod
    def from_url(cls, url: str) -> "ClusterEndpoint":
        """Read `redis+cluster://HOST:PORT,HOST:PORT` or `rediss+cluster://…`. Raises BadLedgerUrl."""
        seeds = [Endpoint.from_url(each) for each in split_hosts(url, SCHEMES)]
        if any(seed.database for seed in seeds):
            raise BadLedgerUrl("a cluster has one database: leave its number out of the URL")
        scheme = url.partition("://")[0]
        hosts = ",".join(seed.host_and_port for seed in seeds)
        return cls(f"{scheme}://{hosts}", seeds)

    def client(
        self,
        *,
        name: str,
        timeout_s: float = 5.0,
        max_connections: int = 8,
        pool_wait_s: float = 1.0,
    ) -> redis.asyncio.Redis:
        """A client for work off the hot path, with `max_connections` to each node. Close it with
        `aclose()`. It does of redis-py's interface what the ledger uses."""

        def connect(node: Endpoint) -> redis.asyncio.Redis:
            return node.client(
                name=name,
                timeout_s=timeout_s,
                max_connections=max_connections,
                pool_wait_s=pool_wait_s,
            )

        return cast(redis.asyncio.Redis, ClusterClient(self.map, connect))

    def runner(self, *, name: str, **options: Any) -> ClusterRunner:
        """What runs scripts on the hot path; options: of `CoalescingRunner`."""
        return ClusterRunner(self.map, name=name, **options)

    async def follow_switches(self) -> None:
        """See `Endpoint.follow_switches`. A cluster's map is followed without it."""
        await asyncio.get_running_loop().create_future()
