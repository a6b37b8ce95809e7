"""Several commands in one round trip to each node of a cluster, and transactions on one node."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from redis.commands import AsyncCoreCommands
from redis.event import EventDispatcher, EventDispatcherInterface
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from gateway.ledger.client.endpoint import Endpoint

if TYPE_CHECKING:
    from gateway.ledger.client.cluster.client import ClusterClient

_SENT_AGAIN: Final = (MovedError, AskError, TryAgainError)


class Commands(AsyncCoreCommands):
    """redis-py's methods, each of which calls `execute_command`."""

    _event_dispatcher: EventDispatcherInterface = EventDispatcher()
    """Asked for by methods that the ledger does not use."""


class ClusterPipeline(Commands):
    """Commands on any keys; what is on one node leaves together."""

    def __init__(self, client: "ClusterClient") -> None:
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
        """The replies in the order of the commands.

        raise_on_error: raise the first error; else errors take the places of the replies, and those
        of a node that cannot be reached are those of all its commands
        """
        from gateway.ledger.client.cluster.client import key_of

        commands, self._commands = self._commands, []
        await self._client.ready()
        results: list[Any] = [None] * len(commands)
        by_node: dict[Endpoint, list[int]] = {}
        for at, (args, _) in enumerate(commands):
            try:
                by_node.setdefault(self._client.node_of(key_of(args)), []).append(at)
            except ClusterDownError as error:
                results[at] = error

        async def send(node: Endpoint, places: list[int]) -> None:
            async with self._client.of(node).pipeline(transaction=False) as pipe:
                for at in places:
                    args, options = commands[at]
                    pipe.execute_command(*args, **options)
                try:
                    replies = await pipe.execute(raise_on_error=False)
                except (RedisError, OSError) as error:
                    self._client.heed(node, error)
                    replies = [error] * len(places)
            for at, reply in zip(places, replies, strict=True):
                results[at] = reply

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

    def __init__(self, client: "ClusterClient") -> None:
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
            except ResponseError as error:
                await self._correct(error)
                if last or not isinstance(error, MovedError):
                    raise
                continue
            self._watching = True
            return watched
        raise AssertionError("unreachable")

    def multi(self) -> None:
        """Queue from here on."""
        self._pipe.multi()

    async def execute(self) -> Any:
        """MULTI, what was queued, EXEC."""
        try:
            return await self._pipe.execute()
        except MovedError as error:
            watching, queued = self._watching, list(self._queued)
            await self._correct(error)
            if watching:
                raise
        for name, args, options in queued:
            getattr(self, name)(*args, **options)
        return await self._pipe.execute()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            from gateway.ledger.client.cluster.client import key_of

            key = key_of(args if name == "execute_command" else (name, *args))
            if not self._watching:
                self._queued.append((name, args, options))
            return getattr(self._at(key), name)(*args, **options)

        return call

    def _at(self, key: bytes) -> Any:
        if self._pipe is None:
            self._node = self._client.node_of(key)
            self._pipe = self._client.of(self._node).pipeline(transaction=True)
        return self._pipe

    async def _correct(self, error: Exception) -> None:
        if self._node is not None:
            self._client.heed(self._node, error)
        await self._leave()

    async def _leave(self) -> None:
        pipe, self._pipe, self._node = self._pipe, None, None
        self._queued, self._watching = [], False
        if pipe is not None:
            await pipe.reset()
