"""The end of a wallet's credit: a request that it cannot pay for as it stands, but in part.

Two ways, by policy. A stream whose hold may grow begins with what is left, where nothing else
runs; it is cut if it needs more. A clamped request is given a lower output maximum that the
wallet affords, and is forwarded with it. The ledger says how much that is; the reserve that
follows decides, for others may have been faster.
"""

import struct
from dataclasses import replace

from gateway.domain.reservation import Denied
from gateway.flow.context import RequestContext
from gateway.flow.estimate import Estimate
from gateway.ledger.codec.calls import AffordCall
from gateway.ledger.reservations import Reservations


async def lower_estimate(
    ledger: Reservations, context: RequestContext, denied: Denied
) -> Estimate | Denied:
    """What the wallet affords of an estimate that was denied for lack of credit; else why not.

    Raises LedgerUnavailable.
    """
    plan, facts, estimate = context.plan, context.facts, context.estimate
    policy = plan.policy
    grows = facts.stream and policy.hold_output_tokens is not None
    clamps = policy.clamp and facts.limits_output
    if not (grows or clamps) or (denied.balance_nano <= 0 and denied.available_nano <= 0):
        return denied
    stride = facts.choices if clamps else 1
    most = estimate.held_output // stride
    least = min(policy.least_hold_output_tokens, most - 1)
    if least < 1:
        return denied
    model = plan.model
    first, second = (
        replace(estimate, held_output=n * stride).hold_vector(model) for n in (least, least + 1)
    )
    affordable = await ledger.afford(
        plan.pack(ledger.shards),
        AffordCall(model.prices, first, _minus(second, first), most - least, model.scope_bits),
    )
    match affordable.decision:
        case "allow" if clamps:
            lowered = least + affordable.steps
            output = lowered * stride
            return replace(estimate, output=output, held_output=output, lowered=lowered)
        case "allow" if not affordable.open_reservations:
            return replace(estimate, held_output=least + affordable.steps)
        case "allow" | "credit_held":
            return replace(denied, reason="credit_held")
        case _:
            return denied


def _minus(vector: bytes, other: bytes) -> bytes:
    """The difference of two packed vectors."""
    form = struct.Struct(f"<{len(vector) >> 3}d")
    pairs = zip(form.unpack(vector), form.unpack(other), strict=True)
    return form.pack(*(mine - theirs for mine, theirs in pairs))
