"""The operator's verbs that correct a wallet, and what it announces: void, refund, signals.

Invariants: void and refund happen once for ever by their operation id, and a refund never gives back
more than its event charged, over all refunds of it. Amounts are nano-credits, times Unix ms by
the ledger's clock. Packing follows the `ARGV` lines of the scripts' headers.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final

from gateway.domain.signals import SignalRules
from gateway.ledger.operator import OperatorLedger

_VOID = struct.Struct("<d")
_REFUND = struct.Struct("<ddH")
_PAID = struct.Struct("<ddBBId")
UNKNOWN: Final = 0
"""Category that says that nothing is known of a grant."""


@dataclass(frozen=True, slots=True)
class GrantTerms:
    """What a grant was made with, as the ledger keeps it for ever."""

    category: int
    priority: int
    scope_bits: int
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class Voided:
    """The answer to void. `held_nano`: what running requests may still spend of it."""

    voided_nano: int
    held_nano: int
    balance_nano: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class Refunded:
    """The answer to refund. `left_nano`: what can still be refunded of the event."""

    left_nano: int
    balance_nano: int
    replayed: bool


class Corrections(OperatorLedger):
    """The wallets of all customers, through one runner; what mends them."""

    async def void(
        self,
        customer_id: str,
        op_id: str,
        grant_no: int,
        *,
        reason: str,
        facts: Mapping[str, Any] | None = None,
    ) -> Voided:
        """Take back what is left of a grant and end it, once for ever by `op_id`.

        Raises LedgerUnavailable; LedgerRefusal (unknown_grant, exists_with_different_parameters).
        """
        reply = await self._operate(
            self._scripts["void"],
            customer_id,
            op_id,
            _VOID.pack(grant_no),
            {**(facts or {}), "reason": reason, "grant_no": grant_no},
            "voided",
        )
        return Voided(reply[1], reply[2], reply[3], reply[6] == 1)

    async def refund(
        self,
        customer_id: str,
        op_id: str,
        event_id: str,
        amount_nano: int,
        *,
        charged_nano: int,
        allocations: Sequence[tuple[int, int]],
        reason: str,
        terms: Mapping[int, GrantTerms] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Refunded:
        """Give back what an event charged, or a part of it, to the grants that paid.

        charged_nano: the event's charge, less what a late settle gave back of it
        allocations:  of the event, in its order
        terms:        of the grants that paid, so that one that was dropped can be opened again
        Raises LedgerUnavailable; LedgerRefusal (more_than_charged, too_many_grants,
        exists_with_different_parameters); ValueError.
        """
        known, event = terms or {}, event_id.encode()
        paid = b"".join(_paid(no, nano, known.get(no)) for no, nano in allocations)
        told = {**(facts or {}), "corrects": event_id, "reason": reason, "operation": "refund"}
        reply = await self._operate(
            self._scripts["refund"],
            customer_id,
            op_id,
            b"".join((_REFUND.pack(charged_nano, amount_nano, len(event)), event, paid)),
            told,
            "refunded",
        )
        return Refunded(reply[1], reply[2], reply[5] == 1)

    async def signals(self, customer_id: str, rules: SignalRules) -> bool:
        """Say what a wallet announces. True when this call changed it; may be called again.

        Raises LedgerUnavailable; ValueError."""
        script, shard = self._scripts["signals"], self.keys.shard_of(customer_id)
        reply = await self._on_account(script, customer_id, (rules.packed(),))
        word = reply[0].decode()
        if word == "updated":
            self.seen.note(shard, reply[2], reply[3])
        elif word != "unchanged":
            self._refuse(script, shard, word)
        return bool(word == "updated")


def _paid(grant_no: int, nano: int, terms: GrantTerms | None) -> bytes:
    if terms is None:
        return _PAID.pack(grant_no, nano, UNKNOWN, 0, 0, 0)
    category, priority, bits, expires_at_ms = astuple(terms)
    return _PAID.pack(grant_no, nano, category, priority, bits, expires_at_ms)
