"""Brings a shard that has lost entries of its outbox back from what the store has.

A shard that was restored from an older copy, or failed over to a replica that lagged, has fewer
entries than the store. To serve on would charge old balances and give places to new entries that
the store has filled. So it is frozen in its own record (`OperatorLedger.freeze`), where every
process and every successor finds it, until `reapply` has done each of the store's events again and
`reopen` begins an epoch.

Invariants: each verb may be called again with the same arguments; a repair that was killed goes on where
the record says that it was. Packing follows the `ARGV` lines of the scripts' headers.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any, Final

from msgpack import packb

from gateway.domain.delivery import Place
from gateway.domain.events import Event
from gateway.domain.pricing import PERIOD_NUMBERS
from gateway.domain.reservation import Account
from gateway.domain.usage import TOKEN_UNITS
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.corrections import GrantTerms
from gateway.ledger.operator import (
    CATEGORY_NUMBERS,
    DEFAULT_PRIORITY,
    OperatorLedger,
    allowance_id,
)

_HEAD = struct.Struct("<dddB")
_STORED = struct.Struct("<ddB")
_GRANT = struct.Struct("<BBIddd")
_ADJUST = struct.Struct("<BBd")
_NUMBER = struct.Struct("<d")
_BOTH_SCOPES: Final = 3

_SUMS: Final = {
    "settle": "settled",
    "expire": "settled",
    "settle_late": "settled",
    "grant": "granted",
    "expire_grant": "expired",
    "void": "voided",
    "adjust": "adjusted",
}
"""Which lifetime sum of a wallet each kind of event moves."""
_TAKES: Final = frozenset({"settle", "expire", "settle_late", "expire_grant", "void"})
"""Kinds whose allocations say what was taken; those of the others say what was given."""
_STATES: Final = {"settle": 2, "release": 3, "expire": 4, "settle_late": 5}
_REFUSALS: Final = frozenset({"unknown_account", "other_grant", "unknown_grant", "not_enough"})
_OWN: Final = GrantTerms(CATEGORY_NUMBERS["adjustment"], 255, 0, 0)
"""Terms of the grant that takes what no other grant is named for."""


class CannotReapply(Exception):
    """The wallet cannot take an event again; nothing was written."""


class Repair(OperatorLedger):
    """Frozen shards, through one runner."""

    async def loosen(self, shard: int, customer_id: str, reservation_id: str) -> None:
        """Put a hold on the credit limit, so that what it rests on can be charged again.

        Raises LedgerUnavailable.
        """
        keys = (
            self.keys.meta(shard),
            self.keys.account(shard, customer_id),
            self.keys.reservation(shard, reservation_id),
        )
        reply = await self._runner.run(self._scripts["loosen"], keys, ())
        word = reply[0].decode()
        if word not in ("loosened", "gone"):
            raise LedgerUnavailable(f"shard {shard} cannot be repaired: {word}")

    async def reapply(
        self, event: Event, terms: Mapping[int, GrantTerms], holder: Account | None = None
    ) -> None:
        """Do again what an event of the store says that its shard had done.

        terms:  of the customer's grants, for those that have been dropped meanwhile
        holder: whose limits the reservation counts in, where it is pending
        Raises CannotReapply, LedgerUnavailable.
        """
        await self._reapply(event, _effect(event, terms), holder)

    async def reopen(
        self,
        shard: int,
        stored: Place,
        kept: Sequence[tuple[Place, str]],
        *,
        accept_loss: bool = False,
    ) -> int:
        """Let a frozen shard serve again; returns its epoch.

        stored: the store's last event of the shard
        kept:   entries of the outbox that the store has not: place, and the id of the reservation
                that it ends, or ""
        accept_loss: although an event up to `stored` was not applied
        Raises LedgerUnavailable.
        """
        script, out = self._scripts["reopen"], self.keys.out(shard)
        ends = [self.keys.reservation(shard, name) if name else out for _, name in kept]
        places = [f"{place.epoch}-{place.seq}" for place, _ in kept]
        keys = (out, self.keys.meta(shard), *ends)
        reply = await self._runner.run(
            script, keys, (_STORED.pack(*stored, accept_loss), _packed(places))
        )
        word = reply[0].decode()
        if word not in ("reopened", "open"):
            raise LedgerUnavailable(f"shard {shard} cannot be reopened: {word}")
        return int(reply[1])

    async def _reapply(
        self, event: Event, effect: Mapping[str, Any], holder: Account | None
    ) -> None:
        shard, customer_id = event.shard, event.customer_id
        keys = [
            self.keys.meta(shard),
            self.keys.account(shard, customer_id),
            self.keys.ops(shard, customer_id),
            self.keys.customers(shard),
            self.keys.due(shard),
        ]
        mask = 0
        if "ended" in effect:
            keys.append(self.keys.reservation(shard, event.reservation_id or ""))
            if holder is not None:
                mask = _BOTH_SCOPES
                keys += self.keys.scopes(holder, mask)
        head = _HEAD.pack(self._clock_ms() if self._clock_ms else 0, event.epoch, event.seq, mask)
        reply = await self._runner.run(self._scripts["reapply"], keys, (head, _packed(effect)))
        word = reply[0].decode()
        if word in _REFUSALS:
            what = f"{word} {reply[1]}" if len(reply) > 1 else word
            raise CannotReapply(what.replace("_", " "))
        if word != "applied":
            raise LedgerUnavailable(f"shard {shard} cannot be repaired: {word}")


def grant_terms(event: Event) -> GrantTerms | None:
    """The terms of the grant that an event made, as far as it says them; None when it made none."""
    facts = event.facts
    if event.kind != "grant" or "allowance_id" in facts:
        return None
    return GrantTerms(
        CATEGORY_NUMBERS.get(facts.get("category", ""), CATEGORY_NUMBERS["paid"]),
        int(facts.get("priority", DEFAULT_PRIORITY)),
        int(facts.get("scope_bits", 0)),
        int(facts.get("expires_at_ms", 0)),
    )


def _effect(event: Event, terms: Mapping[int, GrantTerms]) -> dict[str, Any]:
    """What an event did to its wallet, as `reapply` wants it."""
    sign = -1 if event.kind in _TAKES else 1
    effect: dict[str, Any] = {
        "customer": event.customer_id,
        "at": event.occurred_at_ms,
        "amount": event.amount_nano,
        "sum": _SUMS.get(event.kind, ""),
        "moved": [number for no, nano in event.allocations for number in (no, sign * nano)],
        "terms": {no: _made_of(terms.get(no, _OWN)) for no, _ in event.allocations if no},
    }
    facts = event.facts
    match event.kind:
        case "settle" | "release" | "expire" | "settle_late":
            requests = 0 if event.kind == "release" else 1
            tokens = sum(n for unit, n in event.usage.items() if unit in TOKEN_UNITS)
            effect["ended"] = [
                _STATES[event.kind],
                event.amount_nano,
                requests,
                tokens,
                event.reservation_id,
                event.estimated_amount_nano,
            ]
        case "grant":
            effect["grant"] = 1
            if "allowance_id" in facts:
                opened = ("allowance_id", "period_start_ms", "period_end_ms")
                effect["opened"] = [facts[name] for name in opened]
            else:
                effect |= _granted(event)
        case "expire_grant":
            effect["expired"] = event.allocations[0][0]
        case "void":
            no = event.allocations[0][0]
            effect["voided"] = no
            effect["op"] = _operation(event, "void", _NUMBER.pack(no), event.amount_nano)
        case "adjust":
            effect |= _adjusted(event)
        case "allowance":
            effect["allowance"] = [
                allowance_id(facts["name"]),
                PERIOD_NUMBERS[facts["period"]],
                CATEGORY_NUMBERS[facts.get("category", "allowance")],
                facts.get("priority", DEFAULT_PRIORITY),
                facts.get("day", 0),
                facts.get("scope_bits", 0),
                facts["amount_nano"],
                facts["rollover_max_nano"],
            ]
        case "account":
            effect["account"] = _account_terms(event)
        case "signals":
            pass
    return effect


def _granted(event: Event) -> dict[str, Any]:
    made = grant_terms(event)
    assert made is not None
    effective_at_ms = int(event.facts.get("effective_at_ms", 0))
    packed = _GRANT.pack(
        made.category,
        made.priority,
        made.scope_bits,
        event.amount_nano,
        effective_at_ms,
        made.expires_at_ms,
    )
    terms = {no: _made_of(made, effective_at_ms) for no, _ in event.allocations if no}
    return {"terms": terms, "op": _operation(event, "grant", packed, 0)}


def _adjusted(event: Event) -> dict[str, Any]:
    """An adjustment of the operator, a refund, or what a volume tier gave back."""
    facts = event.facts
    if facts.get("operation") == "refund":
        what = _NUMBER.pack(event.amount_nano) + facts["corrects"].encode()
        return {"op": _operation(event, "refund", what, 0), "refunds": facts["corrects"]}
    if "priority" not in facts:
        return {}
    priority = int(facts["priority"])
    what = _ADJUST.pack(event.amount_nano < 0, priority, abs(event.amount_nano))
    own = GrantTerms(CATEGORY_NUMBERS["adjustment"], priority, 0, 0)
    return {
        "op": _operation(event, "adjust", what, 0),
        "terms": {no: _made_of(own) for no, _ in event.allocations if no},
    }


def _account_terms(event: Event) -> list[int]:
    revision = int(event.event_id.rpartition(":")[2])
    facts = event.facts
    if "credit_limit_nano" not in facts:
        return [revision]
    status = 2 if facts["killed"] else int(facts["frozen"])
    return [revision, facts["credit_limit_nano"], status, facts["billing_day"]]


def _operation(event: Event, verb: str, what: bytes, result: int) -> list[Any]:
    facts = packb({**event.facts, "customer_id": event.customer_id})
    return [event.event_id, verb, what, result, facts]


def _made_of(terms: GrantTerms, effective_at_ms: int = 0) -> list[int]:
    category, priority, scope_bits, expires_at_ms = astuple(terms)
    return [category, priority, scope_bits, effective_at_ms, expires_at_ms]


def _packed(value: Any) -> bytes:
    """Msgpack as the scripts' cmsgpack reads it: bytes and text are the same there."""
    packed: bytes = packb(value, use_bin_type=False)
    return packed
