"""What shards have lost: the ranges of entries, and the wallets that repairs have frozen.

Scripts write both while a shard is frozen (`freeze`, `reopen`, `shut`); here they are read, and a frozen
wallet is marked as noted or thawed.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis

from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import unavailable
from gateway.ledger.client.reading import execute_reached
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.shard_records import Loss, read_loss
from gateway.ledger.codec.shut_wallets import ShutWallet, read_shut_wallet


class Losses:
    """The losses of one ledger. Every method raises LedgerUnavailable."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes
        self.keys = keys

    async def losses(self) -> dict[int, Loss]:
        """What is known to be lost, by shard, without shards whose node is away; one round trip."""
        async with self._client.pipeline(transaction=False) as pipe:
            for shard in range(self.keys.shard_count):
                pipe.get(self.keys.loss(shard))
            records = await execute_reached(pipe)
        return {
            shard: read_loss(raw)
            for shard, raw in enumerate(records)
            if raw and not isinstance(raw, LedgerUnavailable)
        }

    async def shut_wallets(
        self, shards: Collection[int] | None = None
    ) -> dict[str, tuple[int, ShutWallet]]:
        """Customer → shard, and why its wallet was frozen by a repair; also those thawed since. One round trip.

        shards: these; None for all. Those whose node is away are left out
        """
        asked = range(self.keys.shard_count) if shards is None else sorted(shards)
        async with self._client.pipeline(transaction=False) as pipe:
            for shard in asked:
                pipe.hgetall(self.keys.shut(shard))
            answers = await execute_reached(pipe)
        return {
            customer_id.decode(): (shard, read_shut_wallet(packed))
            for shard, listed in zip(asked, answers, strict=True)
            if not isinstance(listed, LedgerUnavailable)
            for customer_id, packed in listed.items()
        }

    async def mark_noted(self, customer_id: str) -> None:
        """Remember that the audit log has it."""
        await self._mark(customer_id, lambda shut: replace(shut, noted=True))

    async def mark_thawed(self, customer_id: str) -> None:
        """Remember that an operator has ended it; nothing for a wallet that no repair has frozen."""
        await self._mark(customer_id, lambda shut: replace(shut, noted=True, thawed=True))

    async def _mark(self, customer_id: str, change: Callable[[ShutWallet], ShutWallet]) -> None:
        name = self.keys.shut(self.keys.shard_of(customer_id))
        with unavailable():
            packed = await self._client.hget(name, customer_id)
            if packed is not None:
                await self._client.hset(
                    name, customer_id, change(read_shut_wallet(packed)).packed()
                )
