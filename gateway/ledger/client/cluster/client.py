"""What of redis-py's client the ledger uses off the hot path, on a cluster.

Each command goes to the node of its key, through redis-py's client of that node: so pools, timeouts and errors
are those of a single server, and a node that is away fails the commands that need it, and no others.
redis-py's own cluster client lets one node that is away fail a whole pipeline, and retries scripts.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import redis.asyncio
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import TimeoutError as TooSlow

from gateway.ledger.client.cluster.map import ClusterMap
from gateway.ledger.client.cluster.pipeline import ClusterPipeline, ClusterTransaction, Commands
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerUnavailable

MOST_ATTEMPTS: Final = 20
"""Of one command: redirections, and attempts while the keys of its slot are on their way."""
MOVING_S: Final = 0.05
_EVERYWHERE: Final = frozenset({"SCRIPT LOAD"})
_KEYLESS: Final = frozenset({"TIME", "PUBLISH", "PING", "INFO", "CONFIG GET"})


class ClusterClient(Commands):
    """redis-py's commands, each sent to the node of its key.

    Commands without a key go to some node: they may say nothing that differs between nodes.
    """

    def __init__(
        self, nodes: ClusterMap, connect: Callable[[Endpoint], redis.asyncio.Redis]
    ) -> None:
        """connect: makes redis-py's client of one node"""
        self.map = nodes
        self._connect = connect
        self._clients: dict[Endpoint, Any] = {}

    async def nodes(self) -> list[tuple[str, redis.asyncio.Redis]]:
        """Every node that owns slots, as HOST:PORT, and a client of it."""
        await self.ready()
        return [(node.host_and_port, self.of(node)) for node in self.map.primaries]

    def of(self, node: Endpoint) -> Any:
        """The client of one node."""
        client = self._clients.get(node)
        if client is None:
            client = self._clients[node] = self._connect(node)
        return client

    async def ready(self) -> None:
        """Know the map. Raises ConnectionError when no node answers."""
        if not self.map.primaries:
            try:
                await self.map.refresh()
            except LedgerUnavailable as error:
                raise NotConnected(str(error)) from error

    def node_of(self, key: bytes) -> Endpoint:
        """The node of a key. Raises ClusterDownError when no node has it."""
        try:
            return self.map.owner(self.map.slot_of(key))
        except LedgerUnavailable as error:
            raise ClusterDownError(str(error)) from error

    def heed(self, node: Endpoint, error: Exception) -> None:
        """Correct the map by what went wrong at a node."""
        if isinstance(error, MovedError):
            self.map.learn(error.slot_id, (error.host or node.address[0], error.port))
        elif isinstance(error, NotConnected | TooSlow | OSError):
            self.map.suspect(node.address)
        elif isinstance(error, ClusterDownError):
            self.map.suspect()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command, as redis-py's client does."""
        await self.ready()
        name = _name(args)
        if name in _EVERYWHERE:
            replies = [
                await self.of(n).execute_command(*args, **options) for n in self.map.primaries
            ]
            return replies[0]
        if name in _KEYLESS:
            return await self._anywhere(args, options)
        key, asked = key_of(args), None
        for attempt in range(MOST_ATTEMPTS):
            node = asked or self.node_of(key)
            try:
                if asked is None:
                    return await self.of(node).execute_command(*args, **options)
                return await self._ask(node, args, options)
            except AskError as error:  # to redis-py a MOVED is a kind of it
                asked = None
                if isinstance(error, MovedError):
                    self.heed(node, error)
                else:
                    asked = self.map.node((error.host or node.address[0], error.port))
            except TryAgainError:
                asked = None
                if attempt + 1 == MOST_ATTEMPTS:
                    raise
                await asyncio.sleep(MOVING_S)
            except Exception as error:
                self.heed(node, error)
                raise
        raise ClusterDownError("the nodes of the cluster redirect a key in a circle")

    def pipeline(self, transaction: bool = True) -> Any:
        """Several commands in one round trip to each node; as a transaction, on one node."""
        return ClusterTransaction(self) if transaction else ClusterPipeline(self)

    def pubsub(self) -> Any:
        """A subscription, at some node: a cluster passes messages on to all of them.

        Needs to know the map: something must have been asked before.
        """
        reachable = [n for n in self.map.primaries if n.address not in self.map.away]
        nodes = reachable or self.map.primaries
        if not nodes:
            raise NotConnected("no node of the cluster is known")
        return self.of(nodes[0]).pubsub()

    async def aclose(self) -> None:
        """Close the connections to all nodes."""
        clients, self._clients = list(self._clients.values()), {}
        await asyncio.gather(*(client.aclose() for client in clients))

    async def _anywhere(self, args: Sequence[Any], options: dict[str, Any]) -> Any:
        away = self.map.away
        nodes = sorted(self.map.primaries, key=lambda node: node.address in away)
        for node in nodes[:-1]:
            with suppress(NotConnected, TooSlow, OSError):
                return await self.of(node).execute_command(*args, **options)
            self.map.suspect(node.address)
        return await self.of(nodes[-1]).execute_command(*args, **options)

    async def _ask(self, node: Endpoint, args: Sequence[Any], options: dict[str, Any]) -> Any:
        async with self.of(node).pipeline(transaction=False) as pipe:
            pipe.execute_command("ASKING")
            pipe.execute_command(*args, **options)
            _, reply = await pipe.execute(raise_on_error=False)  # raised, it would lose its code
        if isinstance(reply, Exception):
            raise reply
        return reply


def key_of(args: Sequence[Any]) -> bytes:
    """The first key of a command. Raises ValueError for one that the ledger does not use."""
    name = _name(args)
    if name in ("EVALSHA", "EVAL"):
        key = args[3]
    elif name in ("XREAD",):
        key = args[[_name((word,)) for word in args].index("STREAMS") + 1]
    else:
        key = args[1]
    if isinstance(key, str):
        key = key.encode()
    if not isinstance(key, bytes) or not key.startswith(b"{"):
        raise ValueError(f"{name} names no key of the ledger")
    return key


def _name(args: Sequence[Any]) -> str:
    word = args[0]
    return (word.decode(errors="replace") if isinstance(word, bytes) else str(word)).upper()


async def nodes_of(client: Any) -> list[tuple[str, redis.asyncio.Redis]]:
    """The servers that a client speaks to, and a client of each: one, or the primaries of a cluster.

    The name is HOST:PORT, and "" for the only one. Raises redis-py's ConnectionError.
    """
    return await client.nodes() if isinstance(client, ClusterClient) else [("", client)]
