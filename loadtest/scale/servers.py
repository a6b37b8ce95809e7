"""The ledgers that are compared, as real server processes, and the meters of their CPU."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis

from gateway.domain.reservation import Account
from gateway.ledger.client.servers import locate
from gateway.ledger.codec.key_names import Keys
from loadtest.ledger_cost import WINDOWED
from loadtest.topology.cluster import Cluster, slot_of
from loadtest.topology.node import Node, until
from loadtest.topology.options import Address, Options
from loadtest.topology.places import LocalPlaces

SETTINGS: Final = {
    # No rewrite in the middle of a sample: `Ledger.empty` rewrites the file when it is empty.
    "auto-aof-rewrite-percentage": "0",
    # A busy machine is not a dead primary: nobody may be elected while figures are taken.
    "cluster-node-timeout": "30000",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """How many servers a ledger has.

    primaries: 0 is one server that is no cluster
    replicas:  of each primary
    """

    primaries: int
    replicas: int = 0

    @property
    def name(self) -> str:
        """In words."""
        if not self.primaries:
            return "single server"
        primaries = f"{self.primaries} primar" + ("y" if self.primaries == 1 else "ies")
        count = self.primaries * self.replicas
        return primaries + (f" + {count} replica" + "s" * (count > 1) if count else "")


SINGLE: Final = Shape(0)
ONE: Final = Shape(1)
TWO: Final = Shape(2)
THREE: Final = Shape(3)
REPLICATED: Final = Shape(3, 1)
SHAPES: Final = (SINGLE, ONE, TWO, THREE, REPLICATED)


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds of a ledger's servers: of each primary, and of all replicas.

    reads: of all primaries from their clients; each takes one or several commands
    """

    primaries_s: tuple[float, ...]
    replicas_s: float
    reads: int

    def since(self, before: "Spent") -> "Spent":
        """The difference."""
        each = zip(self.primaries_s, before.primaries_s, strict=True)
        return Spent(
            tuple(a - b for a, b in each),
            self.replicas_s - before.replicas_s,
            self.reads - before.reads,
        )


@dataclass(slots=True)
class Ledger:
    """A running ledger. Its methods block.

    url: for the gate's configuration, and for `locate`
    """

    shape: Shape
    url: str
    primaries: Sequence[Node]
    replicas: Sequence[Node]
    cluster: Cluster | None = None
    _clients: "dict[Node, redis.Redis]" = field(default_factory=dict)
    _owners: dict[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As in the tables."""
        return self.shape.name

    def owner(self, shard: int) -> int:
        """Which primary has a shard, as its number in `primaries`."""
        if self.cluster is None:
            return 0
        found = self._owners.get(shard)
        if found is None:
            node = self.cluster.owner(slot_of(Keys().meta(shard)))
            found = self._owners[shard] = list(self.primaries).index(node)
        return found

    def spent(self) -> Spent:
        """CPU so far, as the servers themselves report it."""
        return Spent(
            tuple(self._cpu_s(node) for node in self.primaries),
            sum(self._cpu_s(node) for node in self.replicas),
            sum(self._reads(node) for node in self.primaries),
        )

    def empty(self) -> None:
        """Forget all records, on disk too. Replicas follow."""
        for node in self.primaries:
            self.client(node).flushall()
        nodes = [*self.primaries, *self.replicas]
        until(lambda: not any(self.client(node).dbsize() for node in nodes), "empty replicas")
        for node in nodes:
            self.client(node).bgrewriteaof()
        until(lambda: not any(map(self._is_rewriting, nodes)), "empty append-only files")

    def load_script(self, source: bytes) -> None:
        """Make a script known to every primary."""
        for node in self.primaries:
            self.client(node).script_load(source.decode())

    def client(self, node: Node) -> "redis.Redis":
        """One connection to this server, kept until `close`."""
        found = self._clients.get(node)
        if found is None:
            at = node.address
            found = self._clients[node] = redis.Redis(at.host, at.port, protocol=2)
        return found

    def server(self) -> str:
        """Product and version."""
        about: Any = self.client(self.primaries[0]).info("server")
        version = about.get("valkey_version") or about["redis_version"]
        return f"{about.get('server_name', 'redis')} {version}"

    def close(self) -> None:
        """Close the connections; the servers stay."""
        for client in self._clients.values():
            client.close()

    def _cpu_s(self, node: Node) -> float:
        info: Any = self.client(node).info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])

    def _reads(self, node: Node) -> int:
        info: Any = self.client(node).info("stats")
        return int(info["total_reads_processed"])

    def _is_rewriting(self, node: Node) -> bool:
        info: Any = self.client(node).info("persistence")
        return bool(info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])


@contextlib.contextmanager
def running(shape: Shape, folder: Path) -> Iterator[Ledger]:
    """A ledger of this shape until the block ends. Raises NodeFailed."""
    options = Options(settings=SETTINGS)
    with contextlib.ExitStack() as stack:
        if shape.primaries:
            cluster = stack.enter_context(
                Cluster(folder, primaries=shape.primaries, replicas=shape.replicas, options=options)
            )
            primaries, replicas = cluster.primaries(), cluster.replicas()
            url = f"redis+cluster://{_hosts([node.address for node in primaries])}"
            ledger = Ledger(shape, url, primaries, replicas, cluster)
        else:
            node = stack.enter_context(_single(folder, options))
            ledger = Ledger(shape, f"redis://{node.address}", [node], [])
        locate(ledger.url)
        stack.callback(ledger.close)
        yield ledger


@contextlib.contextmanager
def _single(folder: Path, options: Options) -> Iterator[Node]:
    places = LocalPlaces()
    node = Node(folder / "single", places.take(), options, mode={})
    try:
        node.start()
        node.wait_ready()
        yield node
    finally:
        node.kill9()
        places.close()


def _hosts(addresses: Sequence[Address]) -> str:
    return ",".join(map(str, addresses))


def accounts(*, windows: bool) -> list[Account]:
    """A customer in each shard of a ledger, in the order of the shards.

    windows: with three scopes of two windows each
    """
    keys, found, number = Keys(), dict[int, str](), 0
    while len(found) < keys.shard_count:
        customer_id = f"customer-{number}"
        found.setdefault(keys.shard_of(customer_id), customer_id)
        number += 1
    return [
        Account(
            customer_id=found[shard],
            key_id="k_bench",
            shard=shard,
            account_rev=1,
            project_id="team",
            limits=WINDOWED if windows else (),
        )
        for shard in range(keys.shard_count)
    ]


def idle_share(ledger: Ledger, seconds: float) -> float:
    """How much of a core all servers of a ledger use while nobody asks them anything."""
    before, began_s = ledger.spent(), time.monotonic()
    time.sleep(seconds)
    used = ledger.spent().since(before)
    return (sum(used.primaries_s) + used.replicas_s) / (time.monotonic() - began_s)
