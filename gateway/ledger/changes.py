"""Announces that an account was changed, so that gates react before the next checkpoint.

Invariants: a message names an account and nothing else, and no behaviour depends on its arrival. The
state of the account is in the ledger, and every running answer reads it at each checkpoint; a message
makes it read at once. A lost message costs one interval, a forged one nothing.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from redis.asyncio import Redis

from gateway.ledger.client.cluster.client import is_lost, subscription
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import unavailable
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.following import is_left

_LISTEN_S: Final = 5.0
"""How long one look for messages lasts; the connection's health is checked in between."""


class Changes:
    """The channel of a ledger."""

    def __init__(self, client: Redis, *, namespace: str = "cg") -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes
        self._channel = Keys(namespace).common("changes")

    async def announce(self, customer_id: str) -> None:
        """Tell whoever listens. Never raises: what is not heard is seen at the next checkpoint."""
        with suppress(LedgerUnavailable), unavailable():
            await self._client.publish(self._channel, customer_id)

    async def follow(self, heard: Callable[[str], None], listening: Callable[[], None]) -> None:
        """Call `heard` with each customer id, until the connection breaks. Raises LedgerUnavailable.

        On a cluster a later call listens at another node if this one's is away.
        listening: called when messages are heard from now on; those before may have been missed
        """
        with unavailable():
            opened = await subscription(self._client)
        async with opened as channel:
            with unavailable():
                await channel.subscribe(self._channel)
            while True:
                with unavailable():
                    message = await channel.get_message(timeout=_LISTEN_S)
                if is_left(channel.connection):
                    raise LedgerUnavailable("the ledger's server is the primary no more")
                if is_lost(self._client, channel.connection):
                    raise LedgerUnavailable("the node that passes on announcements is away")
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    listening()
                elif message["type"] == "message":
                    heard(message["data"].decode(errors="replace"))
