"""`adjust`: correct a wallet by hand, once per idempotency key."""

from dataclasses import dataclass
from typing import Any, Final

from gateway.domain.money import format_amount
from gateway.ledger.codec.operations import Adjustment
from gateway.operations.audit import signed
from gateway.operations.backend import Backend
from gateway.operations.customers import wallet_of
from gateway.operations.idempotency import Change

_REFUSALS: Final = {
    "exists_with_different_parameters": (
        "the key {key} was used for another adjustment of {subject}. Nothing was changed. Repeat its"
        " amount, or use another key"
    ),
    "too_many_grants": (
        "{subject} has 64 grants with something left in them; there is room for the credit when"
        " one of them is used up or has expired"
    ),
    "total_too_large": "all corrections of {subject} together would exceed 9,000,000 credits",
}


@dataclass(frozen=True, slots=True)
class AdjustRequest:
    """A correction to make.

    key:         the idempotency key, unique per customer
    amount_nano: more than 0 gives, less takes
    corrects:    the id of the event that it corrects; None for none
    """

    customer_id: str
    key: str
    amount_nano: int
    reason: str
    corrects: str | None = None


@dataclass(frozen=True, slots=True)
class AdjustmentMade:
    """A correction that is made now. replayed: an earlier call with this key had made it already."""

    request: AdjustRequest
    balance_nano: int
    replayed: bool


async def adjust(backend: Backend, request: AdjustRequest) -> AdjustmentMade:
    """Give or take credit. Given credit repays the overdraft first and never expires; what is taken
    comes from the grants in burn order, then it is owed.

    Raises NotFound, Conflict, OutcomeUnknown, LedgerUnavailable.
    """
    customer_id = request.customer_id
    change = Change(request.key, "adjusted", customer_id, _REFUSALS)
    await wallet_of(backend, customer_id)
    with change.explained():
        done = await backend.wallets.adjust(
            customer_id,
            adjust_operation_id(customer_id, request.key),
            Adjustment(request.amount_nano, request.reason, corrects=request.corrects),
            signed(backend, "adjustment.create", request.reason),
        )
    return AdjustmentMade(request, done.balance_nano, done.replayed)


def adjust_operation_id(customer_id: str, key: str) -> str:
    """The operation id of an adjustment, and the id of its event."""
    return f"adjust:{customer_id}:{key}"


def adjustment_document(made: AdjustmentMade) -> dict[str, Any]:
    """The correction as a JSON document."""
    request = made.request
    return {
        "customer_id": request.customer_id,
        "amount": format_amount(request.amount_nano),
        "balance": format_amount(made.balance_nano),
        "event": request.corrects,
        "replayed": made.replayed,
        "key": request.key,
    }
