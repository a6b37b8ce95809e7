"""Requests that go on while a cluster is changed, and the proof that none was lost or charged twice."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.domain.delivery import START, Place
from gateway.domain.events import Event
from gateway.domain.reservation import Account, shard_of
from gateway.ledger.client.cluster.members import Primary, owners
from gateway.ledger.client.cluster.slot_moves import Transfer, Way
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.servers import HotRunner, Servers, locate, open_runner
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.hold_reader import OpenHold
from gateway.ledger.identities import wallet_differences
from gateway.ledger.nodes import LedgerNodes
from loadtest.topology.cluster import Cluster
from loadtest.topology.node import Node
from tests.support.bank import Bank
from tests.support.loose_ledger import LooseLedger
from tests.support.until import until

SHARDS = 16
CUSTOMERS = 32
AT_ONCE = 8


class ClusterLoad:
    """Customers on a cluster; `AT_ONCE` of their requests run at any time until `finish`.

    A call that is refused, or whose answer was lost, is made again with the same id until it is answered.
    """

    def __init__(self, servers: Servers, client: Any, runner: HotRunner) -> None:
        self.bank = Bank(client, shards=SHARDS)
        self.keys = Keys("cg", SHARDS)
        self.nodes = LedgerNodes(client, self.keys, servers.shown)
        self.servers = servers
        self.refused = Counter[str]()
        """Codes of refused calls."""
        self.spent = Counter[str]()
        """Finished requests by customer."""
        self._hot = LooseLedger(runner, shard_count=SHARDS)
        self._accounts: dict[str, Account] = {}
        self._begun = 0
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Create the customers, which begin to spend."""
        for number in range(CUSTOMERS):
            self._accounts[f"c{number}"] = await self.bank.open(f"c{number}", granted=1000)
        self._tasks = [asyncio.create_task(self._spend()) for _ in range(AT_ONCE)]

    async def finish(self) -> None:
        """Let the running requests end, and raise what went wrong in one."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def spending(self, more: int = 50) -> None:
        """Wait until some more requests have ended."""
        wanted = sum(self.spent.values()) + more
        await until(lambda: sum(self.spent.values()) >= wanted, within_s=60)

    async def plan(self, slot: int, way: Way) -> tuple[Transfer, list[Primary]]:
        """A move of the slot to another node, and all nodes."""
        primaries = await self.nodes.primaries()
        source = owners(primaries)[slot]
        target = next(each for each in primaries if each is not source)
        return Transfer((slot,), source, target.node_id, way), primaries

    async def owner_id(self, slot: int) -> str:
        """The node that has a slot now."""
        return owners(await self.nodes.primaries())[slot].node_id

    async def check(self) -> None:
        """Every finished request was charged once and has one event; nothing is held; no gap."""
        assert sum(self.spent.values()) > 0
        wallets = await self.bank.accounts.wallets.read(list(self._accounts))
        for name in self._accounts:
            # With nothing held, the sums alone must agree.
            assert wallet_differences(name, wallets[name], list[OpenHold]()) == []
            settles = self.spent[name]
            assert wallets[name].settled_nano == settles * self.charge_nano, (name, settles)
        for shard, head in enumerate(await self.bank.outbox.heads()):
            assert await self.bank.client.zcard(self.keys.due(shard)) == 0
            entries = await self.bank.outbox.scan(shard, head.last)
            at = START
            for entry in entries:
                assert Place(entry.epoch, entry.seq).follows(at)
                at = Place(entry.epoch, entry.seq)
            assert at == head.last
            settled = [e for e in entries if isinstance(e, Event) and e.kind == "settle"]
            assert len({event.event_id for event in settled}) == len(settled)
            by_customer = Counter(event.customer_id for event in settled)
            expected = {n: c for n, c in self.spent.items() if shard_of(n, SHARDS) == shard}
            assert by_customer == expected

    @property
    def charge_nano(self) -> int:
        """What each request costs: 10 input tokens and 7 output tokens."""
        return 10 * 2 + (7 * 11 + 1) // 2

    async def _spend(self) -> None:
        while not self._stopping:
            self._begun += 1
            name = f"c{self._begun % CUSTOMERS}"
            await self._request(name, f"r{self._begun}")
            self.spent[name] += 1

    async def _request(self, name: str, request_id: str) -> None:
        account, prices = self._accounts[name], self.bank.prices
        facts = self.bank.facts(name, request_id, http_status=200)
        hold: Any = await self._until_answered(
            lambda: self._hot.reserve(
                account,
                request_id,
                prices,
                prices.vector({"input": 10, "output": 1000}),
                prices.vector({"input": 10}),
                facts,
                tokens=1010,
                ttl_ms=600_000,
            )
        )
        await self._until_answered(
            lambda: self._hot.settle(
                account,
                request_id,
                prices,
                prices.vector({"input": 10, "output": 7}),
                facts,
                tokens=17,
                reserved_at_ms=hold.reserved_at_ms,
            )
        )

    async def _until_answered(self, call: Any) -> Any:
        while True:
            try:
                return await call()
            except LedgerUnavailable as error:
                self.refused[error.code] += 1
                await asyncio.sleep(0.005)


def no_report(_done: int, _total: int) -> None:
    """For moves whose progress does not matter."""


def node_with(cluster: Cluster, node_id: str) -> Node:
    """The process of a node."""
    return next(node for node in cluster.nodes if cluster.id_of(node) == node_id)


def url_of(cluster: Cluster) -> str:
    """What a configuration would say."""
    user, password = cluster.options.access.user, cluster.options.access.password
    entry = f"{user}:{password}@" if password else ""
    return f"redis+cluster://{entry}{','.join(str(each) for each in cluster.addresses)}"


@asynccontextmanager
async def cluster_load(cluster: Cluster) -> AsyncIterator[ClusterLoad]:
    """Load on an emptied cluster."""
    for node in cluster.primaries():
        await asyncio.to_thread(node.ask, "FLUSHALL")
    servers = locate(url_of(cluster))
    client = servers.client(name="test", timeout_s=20)
    runner = open_runner(servers, name="hot", timeout_s=5.0)
    load = ClusterLoad(servers, client, runner)
    try:
        await runner.start()
        await load.open()
        yield load
    finally:
        load._stopping = True
        for task in load._tasks:
            task.cancel()
        await asyncio.gather(*load._tasks, return_exceptions=True)
        await runner.close()
        await client.aclose()
