"""The end of a wallet's credit: a request that it cannot pay for as it stands, but in part.

Two ways, by policy. A stream whose hold may grow begins with what is left, where nothing else
runs; it is cut if it needs more. A clamped request is given a lower output maximum that the
wallet affords, and is forwarded with it. The ledger says how much that is; the reserve that
follows decides, for others may have been faster.
"""

import struct
from dataclasses import replace

from gateway.dialects.base import RequestFacts
from gateway.domain.reservation import Account, Denied
from gateway.flow.catalog import Model, Policy
from gateway.flow.estimate import Bound
from gateway.ledger.codec.calls import AffordCall
from gateway.ledger.reservations import Reservations


async def lower_bound(
    ledger: Reservations,
    account: Account,
    facts: RequestFacts,
    model: Model,
    policy: Policy,
    bound: Bound,
    denied: Denied,
) -> Bound | Denied:
    """What of a bound that was denied for want of credit the wallet affords; else why not.

    Raises LedgerUnavailable.
    """
    grows = facts.stream and policy.hold_output_tokens is not None
    clamps = policy.clamp and facts.limits_output
    if not (grows or clamps) or (denied.balance_nano <= 0 and denied.available_nano <= 0):
        return denied
    stride = facts.choices if clamps else 1
    most = bound.held_output // stride
    least = min(policy.least_hold_output_tokens, most - 1)
    if least < 1:
        return denied
    prices = model.prices
    first, second = (
        prices.vector(replace(bound, held_output=n * stride).held_usage(model))
        for n in (least, least + 1)
    )
    affordable = await ledger.afford(
        ledger.shards.pack(account),
        AffordCall(prices, first, _minus(second, first), most - least, model.scope_bits),
    )
    match affordable.decision:
        case "allow" if clamps:
            lowered = least + affordable.steps
            output = lowered * stride
            return replace(bound, output=output, held_output=output, lowered=lowered)
        case "allow" if not affordable.open_reservations:
            return replace(bound, held_output=least + affordable.steps)
        case "allow" | "credit_held":
            return replace(denied, reason="credit_held")
        case _:
            return denied


def _minus(vector: bytes, other: bytes) -> bytes:
    """The difference of two packed vectors."""
    form = struct.Struct(f"<{len(vector) >> 3}d")
    pairs = zip(form.unpack(vector), form.unpack(other), strict=True)
    return form.pack(*(mine - theirs for mine, theirs in pairs))
