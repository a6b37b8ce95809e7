"""Pack what an event did, so that `reapply` can do it again: the event as the script's effect.

An event of the store has all that is needed: amounts and allocations from its stamp, the terms of
grants, accounts and allowances from its facts.
"""

import struct
from collections.abc import Mapping
from dataclasses import astuple
from typing import Any, Final

from msgpack import packb

from gateway.domain.delivery import Place
from gateway.domain.events import Event
from gateway.domain.pricing import PERIOD_NUMBERS
from gateway.domain.usage import TOKEN_UNITS
from gateway.ledger.codec.operations import (
    CATEGORIES,
    CATEGORY_NUMBERS,
    DEFAULT_PRIORITY,
    Adjustment,
    GrantTerms,
    NewGrant,
    allowance_id,
    pack_facts,
    pack_number,
)

_HEAD: Final = struct.Struct("<dddB")
_STORED: Final = struct.Struct("<ddddddd")

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
_OWN: Final = GrantTerms(CATEGORY_NUMBERS["adjustment"], 255, 0, 0)
"""Terms of the grant that takes what no other grant is named for."""


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


def effect_of(event: Event, terms: Mapping[int, GrantTerms]) -> dict[str, Any]:
    """What an event did to its wallet. terms: of the customer's grants, for those that were dropped."""
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
            effect["op"] = _operation(event, "void", pack_number(no), event.amount_nano)
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
        case "audit":
            effect["note"] = 1
    return effect


def _granted(event: Event) -> dict[str, Any]:
    made = grant_terms(event)
    assert made is not None
    effective_at_ms = int(event.facts.get("effective_at_ms", 0))
    packed = NewGrant(
        event.amount_nano,
        CATEGORIES[made.category - 1],
        made.priority,
        made.scope_bits,
        effective_at_ms,
        made.expires_at_ms,
    ).packed()
    terms = {no: _made_of(made, effective_at_ms) for no, _ in event.allocations if no}
    return {"terms": terms, "op": _operation(event, "grant", packed, 0)}


def _adjusted(event: Event) -> dict[str, Any]:
    """An adjustment of the operator, a refund, or what a volume tier gave back."""
    facts = event.facts
    if facts.get("operation") == "refund":
        what = pack_number(event.amount_nano) + facts["corrects"].encode()
        return {"op": _operation(event, "refund", what, 0), "refunds": facts["corrects"]}
    if "priority" not in facts:
        return {}
    priority = int(facts["priority"])
    what = Adjustment(event.amount_nano, "", priority=priority).packed()
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
    facts = pack_facts({**event.facts, "customer_id": event.customer_id})
    return [event.event_id, verb, what, result, facts]


def _made_of(terms: GrantTerms, effective_at_ms: int = 0) -> list[int]:
    category, priority, scope_bits, expires_at_ms = astuple(terms)
    return [category, priority, scope_bits, effective_at_ms, expires_at_ms]


def pack_for_script(value: Any) -> bytes:
    """Msgpack as the scripts' cmsgpack reads it: bytes and text are the same there."""
    packed: bytes = packb(value, use_bin_type=False)
    return packed


def pack_reapply_head(now_ms: int, place: Place, mask: int) -> bytes:
    """The head of a reapply. mask: of the scopes given."""
    return _HEAD.pack(now_ms, *place, mask)


def pack_reopen_head(stored: Place, applied: Place, last: Place, now_ms: int) -> bytes:
    """The head of a reopen; see `Reached`."""
    return _STORED.pack(*stored, *applied, *last, now_ms)
