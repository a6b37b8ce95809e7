"""Refunds: give back what an event charged, or a part of it, to the grants that paid.

Invariants: a refund is done once per operation id, permanently, and all refunds of an event together
never give back more than it charged. Amounts are nano-credits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.ledger.codec.operations import Refund
from gateway.ledger.shards import Shards


@dataclass(frozen=True, slots=True)
class Refunded:
    """The answer to refund. `left_nano`: what can still be refunded of the event."""

    left_nano: int
    balance_nano: int
    replayed: bool


class Corrections:
    """Corrections of events."""

    __slots__ = ("shards",)

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    async def refund(
        self,
        customer_id: str,
        op_id: str,
        refund: Refund,
        facts: Mapping[str, Any] | None = None,
    ) -> Refunded:
        """Refund an event, once per `op_id`.

        facts: what else the adjustment's event says
        Raises LedgerUnavailable; LedgerRefusal (more_than_charged, too_many_grants,
        exists_with_different_parameters); ValueError.
        """
        said = {**(facts or {}), **refund.facts()}
        reply = await self.shards.operate("refund", customer_id, op_id, refund.packed(), said)
        return Refunded(reply[1], reply[2], reply[5] == 1)
