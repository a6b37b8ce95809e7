"""Runs scripts through a redis-py client: tests, the command line, whatever is not hot."""

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from gateway.ledger.client.cluster.client import is_cluster, server_changes
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import NodeAway, explain, refusal_of
from gateway.ledger.client.scripts import Script


class RedisRunner:
    """A `Runner` for whatever is not on the hot path."""

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes

    @property
    def server_changes(self) -> int:
        """Grows whenever another server may run the scripts of some shard than before."""
        return server_changes(self._client)

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> list[Any]:
        """See `Runner`. Whatever breaks the connection leaves the outcome unknown."""
        command = (b"EVALSHA", script.sha, len(keys), *keys, *args)
        options = {"sent_on": False} if is_cluster(self._client) and not script.sent_on else {}
        try:
            try:
                reply: list[Any] = await self._client.execute_command(*command, **options)
            except NoScriptError:
                await self._client.script_load(script.source)
                reply = await self._client.execute_command(*command, **options)
        except ResponseError as error:
            raise refusal_of(error) or explain(error, script.name) from error
        except (RedisError, OSError) as error:
            named = isinstance(error, NodeAway)
            message = (
                str(error) if named else f"the ledger cannot be reached: {type(error).__name__}"
            )
            raise refusal_of(error) or LedgerUnavailable(message, unknown=True) from error
        return reply
