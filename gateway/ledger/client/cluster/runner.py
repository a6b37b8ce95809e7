"""The hot path's runner of scripts on a cluster: a `CoalescingRunner` for each node.

The node is that of the first key's slot; all keys of a script share their slot. A script that was
sent to the wrong node has not run, so it is sent on: MOVED corrects the map, ASK holds for the one
call. A shard whose slot is in the middle of a move, or whose node is away, is unavailable; the
others do not notice.
"""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final

from gateway.ledger.client.cluster.map import ClusterMap
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerUnavailable, Redirected
from gateway.ledger.client.runner import CoalescingRunner
from gateway.ledger.client.scripts import Script

MOST_REDIRECTS: Final = 5
_HINTS: Final = frozenset({"CLUSTERDOWN", "READONLY", "MASTERDOWN", "LOADING"})


class ClusterRunner:
    """Runs scripts over one connection to each node (`Runner` of `gateway/ledger/client/scripts.py`).

    Use it from one event loop: `await start()` … `await close()`, or `async with`.
    """

    def __init__(self, nodes: ClusterMap, *, name: str, **options: Any) -> None:
        """options: of `CoalescingRunner`, for each node's"""
        self._map = nodes
        self._name = name
        self._options = options
        self._runners: dict[Endpoint, CoalescingRunner] = {}
        self._by_tag: dict[bytes, CoalescingRunner] = {}
        self._barred: dict[str, str] = {}
        self._started = self._closed = False
        self._leaving: set[asyncio.Task[None]] = set()
        self._retired_reconnects = 0
        nodes.changes.follow(self._replan)

    def __repr__(self) -> str:
        return (
            f"ClusterRunner({self._name}, {len(self._runners)} nodes, {self.down or 'connected'})"
        )

    @property
    def connected(self) -> bool:
        """Whether a call would be sent now, for one shard at least."""
        return any(runner.connected for runner in self._runners.values())

    @property
    def down(self) -> tuple[str, ...]:
        """Nodes that no call can be sent to at the moment."""
        return tuple(n.host_and_port for n, runner in self._runners.items() if not runner.connected)

    @property
    def server_changes(self) -> int:
        """Grows whenever another server may run the scripts of some shard than before."""
        return self._map.changes.count + self.reconnects

    @property
    def outstanding(self) -> int:
        """Commands that wait for their answer."""
        return sum(runner.outstanding for runner in self._runners.values())

    @property
    def refusal(self) -> str | None:
        """The word with which every node refuses scripts at the moment; None while one does not."""
        words = [runner.refusal for runner in self._runners.values()]
        return words[0] if words and all(words) else None

    @property
    def reconnects(self) -> int:
        """Connections made after the first to each node."""
        return self._retired_reconnects + sum(r.reconnects for r in self._runners.values())

    def bar(self, server: str, sentence: str | None) -> None:
        """Run nothing on a node (HOST:PORT), for a reason; None: run scripts again."""
        for node, runner in self._runners.items():
            if node.host_and_port == server:
                runner.bar(server, sentence)
        if sentence is None:
            self._barred.pop(server, None)
        else:
            self._barred[server] = sentence

    async def start(self) -> None:
        """Connect to every node that owns slots; those that are away are tried again in the background.

        Raises LedgerUnavailable, and leaves nothing behind, if none can be reached.
        """
        await self._map.refresh()
        self._started = True
        runners = [self._runner(node) for node in self._map.primaries]
        results = await asyncio.gather(*(r.start() for r in runners), return_exceptions=True)
        failures = [error for error in results if isinstance(error, BaseException)]
        strange = [error for error in failures if not isinstance(error, LedgerUnavailable)]
        if strange or len(failures) == len(runners):
            await self.close(0)
            raise (strange or failures or [LedgerUnavailable("the cluster has no slots")])[0]
        for runner in runners:
            runner.begin()

    async def close(self, grace_s: float = 5.0) -> None:
        """Wait up to `grace_s` for the outstanding answers, then close. Safe to repeat."""
        self._closed = True
        await asyncio.gather(*(runner.close(grace_s) for runner in self._runners.values()))
        await asyncio.gather(*self._leaving)

    async def __aenter__(self) -> "ClusterRunner":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> list[Any]:
        """See `CoalescingRunner.run`."""
        key = keys[0]
        runner = self._by_tag.get(key[: key.find(b"}")])
        try:
            if runner is None:
                runner = self._plan(key)
                await runner.reach()
            return await runner.run(script, keys, args)
        except LedgerUnavailable as error:
            if isinstance(error, Redirected):
                if error.code == "MOVED" and not script.sent_on:
                    self._map.learn(error.slot, error.address)
                    raise LedgerUnavailable(str(error), code=error.code) from None
                return await self._follow(error, script, keys, args)
            if error.code in _HINTS:
                self._map.suspect()
            raise

    async def _follow(
        self,
        told: Redirected,
        script: Script,
        keys: Sequence[bytes],
        args: Sequence[bytes],
    ) -> list[Any]:
        for _ in range(MOST_REDIRECTS):
            asking = told.code == "ASK"
            address = told.address
            node = self._map.sent_to(address) if asking else self._map.learn(told.slot, address)
            runner = self._runner(node)
            await runner.reach()
            try:
                return await (runner.run_asking if asking else runner.run)(script, keys, args)
            except Redirected as further:
                told = further
        raise LedgerUnavailable("the nodes of the ledger's cluster redirect a shard in a circle")

    def _plan(self, key: bytes) -> CoalescingRunner:
        runner = self._runner(self._map.owner(self._map.slot_of(key)))
        self._by_tag[key[: key.find(b"}")]] = runner
        return runner

    def _runner(self, node: Endpoint) -> CoalescingRunner:
        runner = self._runners.get(node)
        if runner is None:
            if self._closed:
                raise LedgerUnavailable("the connection to the ledger is closed")
            runner = self._runners[node] = CoalescingRunner(
                node,
                name=self._name,
                on_trouble=lambda: self._map.suspect(node.address),
                **self._options,
            )
            runner.bar("", self._barred.get(node.host_and_port))
        return runner

    def _replan(self) -> None:
        """Shards have moved: find their nodes again, and leave those that own nothing any more."""
        self._by_tag.clear()
        if self._closed or not self._started:
            return
        owners = set(self._map.primaries)
        for node in owners:
            self._runner(node).begin()
        for node in self._runners.keys() - owners:
            runner = self._runners.pop(node)
            self._retired_reconnects += runner.reconnects
            task = asyncio.get_running_loop().create_task(runner.close())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
