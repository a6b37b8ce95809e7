"""Several commands in one round trip to each node of a cluster, and transactions on one node."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Protocol

from redis.commands import AsyncCoreCommands
from redis.event import EventDispatcher, EventDispatcherInterface
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisError,
    TryAgainError,
)

from gateway.ledger.client.cluster.commands import is_keyless, key_of
from gateway.ledger.client.endpoint import Endpoint

_SENT_AGAIN: Final = (MovedError, AskError, TryAgainError)


class Nodes(Protocol):
    """The nodes of a cluster: see `ClusterClient`."""

    async def ready(self) -> None:
        """Know the map."""
        ...

    def node_of(self, key: bytes) -> Endpoint:
        """The node of a key."""
        ...

    def of(self, node: Endpoint) -> Any:
        """The client of one node."""
        ...

    def heed(self, node: Endpoint, error: Exception) -> Exception:
        """Correct the map; returns the error to raise."""
        ...

    def refuse_gone(self, node: Endpoint) -> None:
        """Raise NodeAway for a node that has not answered for a while."""
        ...

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command to the node of its key."""
        ...


class Commands(AsyncCoreCommands):
    """redis-py's methods, each of which calls `execute_command`."""

    _event_dispatcher: EventDispatcherInterface = EventDispatcher()
    """Asked for by methods that the ledger does not use."""


class ClusterPipeline(Commands):
    """Commands on any keys; what is on one node leaves together."""

    def __init__(self, client: Nodes) -> None:
        self._client = client
        self._commands: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    async def __aenter__(self) -> "ClusterPipeline":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._commands = []

    def execute_command(self, *args: Any, **options: Any) -> "ClusterPipeline":
        """Queue a command."""
        self._commands.append((args, options))
        return self

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """The replies in the order of the commands. One without a key (TIME) goes where the first key is.

        raise_on_error: raise the first error; else errors take the places of the replies, and those
        of a node that cannot be reached are those of all its commands
        """
        commands, self._commands = self._commands, []
        await self._client.ready()
        results: list[Any] = [None] * len(commands)
        by_node: dict[Endpoint, list[int]] = {}
        keys = [None if is_keyless(args) else key_of(args) for args, _ in commands]
        beside = next((key for key in keys if key is not None), b"{}")
        for at, key in enumerate(keys):
            try:
                node = self._client.node_of(beside if key is None else key)
                by_node.setdefault(node, []).append(at)
            except ClusterDownError as error:
                results[at] = error

        async def send(node: Endpoint, places: list[int]) -> None:
            async with self._client.of(node).pipeline(transaction=False) as pipe:
                for at in places:
                    args, options = commands[at]
                    pipe.execute_command(*args, **options)
                try:
                    self._client.refuse_gone(node)
                    replies = await pipe.execute(raise_on_error=False)
                except (RedisError, OSError) as error:
                    replies = [self._client.heed(node, error)] * len(places)
            for at, reply in zip(places, replies, strict=True):
                down = isinstance(reply, ClusterDownError)
                results[at] = self._client.heed(node, reply) if down else reply

        await asyncio.gather(*(send(node, places) for node, places in by_node.items()))
        for at, (args, options) in enumerate(commands):
            if isinstance(results[at], _SENT_AGAIN):
                try:
                    results[at] = await self._client.execute_command(*args, **options)
                except (RedisError, OSError) as error:
                    results[at] = error
        if raise_on_error:
            for result in results:
                if isinstance(result, Exception):
                    raise result
        return results


class ClusterTransaction:
    """redis-py's transaction at the node of the first key; all keys must be of one slot.

    It is sent on to another node as long as nothing was watched or read.
    """

    def __init__(self, client: Nodes) -> None:
        self._client = client
        self._pipe: Any = None
        self._node: Endpoint | None = None
        self._queued: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self._watching = False

    async def __aenter__(self) -> "ClusterTransaction":
        await self._client.ready()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave()

    async def watch(self, *keys: bytes) -> Any:
        """WATCH, at the node of the key."""
        for last in (False, True):
            try:
                watched = await self._at(keys[0]).watch(*keys)
            except (RedisError, OSError) as error:
                named = await self._correct(error)
                if last or not isinstance(error, MovedError):
                    raise named from error
                continue
            self._watching = True
            return watched
        raise AssertionError("unreachable")

    def multi(self) -> None:
        """Queue from here on."""
        self._pipe.multi()

    async def execute(self) -> Any:
        """MULTI, what was queued, EXEC."""
        watching, queued = self._watching, list(self._queued)
        try:
            return await self._pipe.execute()
        except (RedisError, OSError) as error:
            named = await self._correct(error)
            if watching or not isinstance(error, MovedError):
                raise named from error
        for name, args, options in queued:
            getattr(self, name)(*args, **options)
        return await self._pipe.execute()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            command = args if name == "execute_command" else (name, *args)
            if not self._watching:
                self._queued.append((name, args, options))
            pipe = self._pipe if self._pipe and is_keyless(command) else self._at(key_of(command))
            result = getattr(pipe, name)(*args, **options)
            return self._named(result) if inspect.iscoroutine(result) else result

        return call

    async def _named(self, reply: Awaitable[Any]) -> Any:
        try:
            return await reply
        except (RedisError, OSError) as error:
            assert self._node is not None
            raise self._client.heed(self._node, error) from error

    def _at(self, key: bytes) -> Any:
        if self._pipe is None:
            self._node = self._client.node_of(key)
            self._client.refuse_gone(self._node)
            self._pipe = self._client.of(self._node).pipeline(transaction=True)
        return self._pipe

    async def _correct(self, error: Exception) -> Exception:
        named = error if self._node is None else self._client.heed(self._node, error)
        await self._leave()
        return named

    async def _leave(self) -> None:
        pipe, self._pipe, self._node = self._pipe, None, None
        self._queued, self._watching = [], False
        if pipe is not None:
            await pipe.reset()
