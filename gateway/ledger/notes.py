"""Entries about changes that move no balance: who did what, and why.

Such a change is made elsewhere (a key in the directory, a price book, a customer's record), so its entry
cannot be written in the same step. `gateway/operations/audit.py` says in which order.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.ledger.codec.operations import pack_facts, pack_times
from gateway.ledger.shards import Shards

EVERYONE_SHARD: Final = 0
"""The shard of entries that belong to no customer."""


class Notes:
    """Writes entries of the kind `audit`."""

    __slots__ = ("shards",)

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    async def note(
        self, op_id: str, facts: Mapping[str, Any], customer_id: str = "", shard: int | None = None
    ) -> bool:
        """Write an entry, once per `op_id` within an hour. True unless an earlier call had written it.

        op_id:       also the id of the event, so never use one again
        customer_id: "" for a change that belongs to no customer
        shard:       None for the customer's, or that of changes that belong to no customer
        Raises LedgerUnavailable; ValueError for an id longer than 200 bytes.
        """
        shards, names = self.shards, self.shards.keys
        if shard is None:
            shard = names.shard_of(customer_id) if customer_id else EVERYONE_SHARD
        keys = (names.meta(shard), names.note(shard, op_id), names.out(shard))
        packed = pack_facts({**facts, "customer_id": customer_id})
        script = shards.scripts["note"]
        args = (pack_times(shards.times(shard)), op_id.encode(), packed)
        reply = await shards.runner.run(script, keys, args)
        word = reply[0].decode()
        if word != "noted":
            shards.refuse(script, shard, word)
        shards.watermark.note(shard, reply[1], reply[2])
        return bool(reply[3] == 0)
