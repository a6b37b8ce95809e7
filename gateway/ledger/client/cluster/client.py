"""What of redis-py's client the ledger uses off the hot path, on a cluster.

Each command goes to the node of its key, through redis-py's client of that node: so pools, timeouts and errors
are those of a single server, and a node that is away fails the commands that need it, and no others.
redis-py's own cluster client lets one node that is away fail a whole pipeline, and retries scripts.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import redis.asyncio
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import TimeoutError as TooSlow

from gateway.ledger.client.cluster.commands import is_keyless, key_of, name_of
from gateway.ledger.client.cluster.map import GONE_AFTER_S, Address, ClusterMap
from gateway.ledger.client.cluster.pipeline import ClusterPipeline, ClusterTransaction, Commands
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import NodeAway, unavailable

MOST_ATTEMPTS: Final = 20
"""Of one command: redirections, and attempts while the keys of its slot are on their way."""
MOVING_S: Final = 0.05
_EVERYWHERE: Final = frozenset({"SCRIPT LOAD"})


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
        self._leaving: set[asyncio.Task[None]] = set()
        nodes.changes.follow(self._leave_old)

    async def nodes(self) -> list[tuple[str, redis.asyncio.Redis]]:
        """Each node that owns slots: HOST:PORT, and its client."""
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

    def heed(self, node: Endpoint, error: Exception) -> Exception:
        """Correct the map by what went wrong at a node; returns the error to raise, which names the
        node where that is away."""
        if isinstance(error, MovedError):
            self.map.learn(error.slot_id, _named_by(node, error))
        elif isinstance(error, NodeAway | AuthenticationError | BusyLoadingError):
            pass  # no news, or one that answers
        elif isinstance(error, NotConnected | TooSlow | OSError):
            # A timeout is as long as others wait before they give a node up.
            self.map.suspect(node.address, silent_s=GONE_AFTER_S if _is_silence(error) else 0.0)
            away = NodeAway(node.host_and_port, str(error) or type(error).__name__)
            away.__cause__ = error
            return away
        elif isinstance(error, ClusterDownError):
            self.map.suspect()
        return error

    def suspect(self, server: str) -> None:
        """A node, HOST:PORT, has not answered somebody who asked it directly."""
        for node in self.map.primaries:
            if node.host_and_port == server:
                self.map.suspect(node.address)

    def is_gone(self, server: str) -> bool:
        """Whether a node, HOST:PORT, has not answered for a while."""
        return any(
            node.host_and_port == server and self.map.is_gone(node.address)
            for node in self.map.primaries
        )

    def refuse_gone(self, node: Endpoint) -> None:
        """Raise NodeAway, without asking it, for a node that has not answered for a while."""
        if self.map.is_gone(node.address):
            raise NodeAway(node.host_and_port, "it does not answer")

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command, as redis-py's client does. sent_on=False: not to another node than the one that
        had the key."""
        await self.ready()
        sent_on = options.pop("sent_on", True)
        name = name_of(args)
        if name in _EVERYWHERE:
            return await self._everywhere(args, options)
        if is_keyless(args):
            return await self._anywhere(args, options)
        key, asked = key_of(args), None
        for attempt in range(MOST_ATTEMPTS):
            node = asked or self.node_of(key)
            try:
                return await self._at(node, args, options, asking=asked is not None)
            except MovedError:
                if not sent_on:
                    raise
                asked = None
            except AskError as error:
                asked = self.map.sent_to(_named_by(node, error))
            except TryAgainError:
                asked = None
                if attempt + 1 == MOST_ATTEMPTS:
                    raise
                await asyncio.sleep(MOVING_S)
        raise ClusterDownError("the nodes of the cluster redirect a key in a circle")

    def pipeline(self, transaction: bool = True) -> Any:
        """Several commands in one round trip to each node; as a transaction, on one node."""
        return ClusterTransaction(self) if transaction else ClusterPipeline(self)

    def pubsub(self) -> Any:
        """A subscription, at some node: a cluster passes messages on to all of them.

        Needs to know the map: await `ready` before.
        """
        nodes = self._nearest()
        if not nodes:
            raise NotConnected("no node of the cluster is known")
        return self.of(nodes[0]).pubsub()

    async def aclose(self) -> None:
        """Close the connections to all nodes."""
        clients, self._clients = list(self._clients.values()), {}
        await asyncio.gather(*(client.aclose() for client in clients))

    def _leave_old(self) -> None:
        """Close idle connections to nodes that own nothing any more: they may never be used again."""
        owners = set(self.map.primaries)
        for node in self._clients.keys() - owners:
            pool = self._clients[node].connection_pool
            task = asyncio.get_running_loop().create_task(pool.disconnect(inuse_connections=False))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _anywhere(self, args: Sequence[Any], options: dict[str, Any]) -> Any:
        failed: Exception | None = None
        for node in self._nearest():
            try:
                return await self._at(node, args, options)
            except (NotConnected, TooSlow, OSError) as error:
                failed = error
        raise failed or NotConnected("no node of the cluster is known")

    async def _everywhere(self, args: Sequence[Any], options: dict[str, Any]) -> Any:
        """At every node that can be reached; raises when none can. Returns one's reply."""
        replies = await asyncio.gather(
            *(self._at(node, args, options) for node in self.map.primaries), return_exceptions=True
        )
        answers = [reply for reply in replies if not isinstance(reply, BaseException)]
        strange = [
            reply
            for reply in replies
            if isinstance(reply, BaseException) and not isinstance(reply, NotConnected)
        ]
        if strange or not answers:
            raise [*strange, *replies][0]
        return answers[0]

    async def _at(
        self, node: Endpoint, args: Sequence[Any], options: dict[str, Any], *, asking: bool = False
    ) -> Any:
        self.refuse_gone(node)
        try:
            if asking:
                return await self._ask(node, args, options)
            return await self.of(node).execute_command(*args, **options)
        except Exception as error:
            raise self.heed(node, error) from error

    def _nearest(self) -> list[Endpoint]:
        """The nodes that own slots, those that do not answer lately last."""
        away = self.map.away
        return sorted(self.map.primaries, key=lambda node: node.address in away)

    async def _ask(self, node: Endpoint, args: Sequence[Any], options: dict[str, Any]) -> Any:
        async with self.of(node).pipeline(transaction=False) as pipe:
            pipe.execute_command("ASKING")
            pipe.execute_command(*args, **options)
            _, reply = await pipe.execute(raise_on_error=False)  # raised, it would lose its code
        if isinstance(reply, Exception):
            raise reply
        return reply


def _is_silence(error: Exception) -> bool:
    return isinstance(error, TooSlow | TimeoutError)


def _named_by(node: Endpoint, error: MovedError | AskError) -> Address:
    """Where a node sends a command. An address without a host is that of the node itself."""
    return node.address[0] if error.host in ("", "?") else error.host, error.port


def is_cluster(client: Any) -> bool:
    """Whether a client speaks to several servers, of which one may be away."""
    return isinstance(client, ClusterClient)


def server_changes(client: Any) -> int:
    """Grows whenever another server may answer for some key than before; a lost connection does not count."""
    if isinstance(client, ClusterClient):
        return client.map.changes.count
    moves = client.connection_pool.connection_kwargs.get("moves")
    return 0 if moves is None else int(moves.count)


async def subscription(client: Any) -> Any:
    """redis-py's `pubsub()` at some server. Raises redis-py's ConnectionError."""
    if isinstance(client, ClusterClient):
        await client.ready()
    return client.pubsub()


def is_lost(client: Any, connection: Any) -> bool:
    """Whether a connection, such as a subscription's, leads to a node that does not answer."""
    if not isinstance(client, ClusterClient) or connection is None:
        return False
    return (connection.host, connection.port) in client.map.away


async def scan_names(client: Any, pattern: bytes) -> AsyncIterator[list[bytes]]:
    """The names of all keys that match, page by page, of every server.

    Raises LedgerUnavailable, also when slots have changed hands meanwhile: then names may be missing.
    """
    with unavailable():
        nodes = await nodes_of(client)
    cluster = client if isinstance(client, ClusterClient) else None
    if cluster is not None:
        await cluster.map.refresh()
    before = cluster.map.layout if cluster is not None else None
    for server, node in nodes:
        cursor: Any = None
        names: Any
        while cursor is None or int(cursor):
            with unavailable():
                try:
                    cursor, names = await node.scan(cursor or 0, match=pattern, count=2000)
                except (NotConnected, TooSlow, OSError) as error:
                    if cluster is None or isinstance(error, AuthenticationError | BusyLoadingError):
                        raise
                    raise NodeAway(server, str(error) or type(error).__name__) from error
            yield names
    if cluster is not None:
        await cluster.map.refresh()
        if cluster.map.layout != before:
            raise LedgerUnavailable("shards moved to another node while they were read; retry")


async def nodes_of(client: Any) -> list[tuple[str, redis.asyncio.Redis]]:
    """The servers that a client speaks to, and a client of each: one, or the primaries of a cluster.

    The name is HOST:PORT, and "" for the only one. Raises redis-py's ConnectionError.
    """
    return await client.nodes() if isinstance(client, ClusterClient) else [("", client)]
