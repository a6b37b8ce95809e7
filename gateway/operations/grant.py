"""`grant`: add credit to a wallet, once per idempotency key."""

from dataclasses import dataclass
from typing import Any, Final

from gateway.domain.money import format_amount
from gateway.ledger.codec.operations import DEFAULT_PRIORITY, Category, NewGrant
from gateway.operations.audit import signed
from gateway.operations.backend import Backend
from gateway.operations.customers import wallet_of
from gateway.operations.idempotency import Change

_REFUSALS: Final = {
    "exists_with_different_parameters": (
        "the key {key} was used for another grant to {subject}, with another amount, category,"
        " priority or expiry. Nothing was changed. Repeat its terms, or use another key"
    ),
    "already_expired": "the grant would be worth nothing: its expiry has passed",
    "too_many_grants": (
        "{subject} has 64 grants with something left in them; there is room for the next one when"
        " one of them is used up or has expired"
    ),
    "total_too_large": "all grants to {subject} together would exceed 9,000,000 credits",
}


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """A grant to make.

    key:           the idempotency key, unique per customer
    category:      paid, promotional, allowance or adjustment
    priority:      0 to 255; lower is spent first
    expires_at_ms: Unix ms at which the rest is forfeited; None for never
    name:          shown by `wallet show` and `why`. reason: kept on record
    """

    customer_id: str
    key: str
    amount_nano: int
    category: Category = "paid"
    priority: int = DEFAULT_PRIORITY
    expires_at_ms: int | None = None
    name: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class GrantMade:
    """A grant that exists now. replayed: an earlier call with this key had made it already."""

    customer_id: str
    key: str
    amount_nano: int
    grant_no: int
    balance_nano: int
    replayed: bool


async def grant(backend: Backend, request: GrantRequest) -> GrantMade:
    """Add credit. It repays the overdraft first.

    Raises NotFound, Conflict, OutcomeUnknown, LedgerUnavailable.
    """
    facts = signed(backend, "grant.create", request.reason, name=request.name)
    change = Change(request.key, "granted", request.customer_id, _REFUSALS)
    await wallet_of(backend, request.customer_id)
    with change.explained():
        granted = await backend.wallets.grant(
            request.customer_id,
            grant_operation_id(request.customer_id, request.key),
            NewGrant(
                request.amount_nano,
                request.category,
                request.priority,
                expires_at_ms=request.expires_at_ms or 0,
            ),
            facts,
        )
    return GrantMade(
        request.customer_id,
        request.key,
        request.amount_nano,
        granted.grant_no,
        granted.balance_nano,
        granted.replayed,
    )


def grant_operation_id(customer_id: str, key: str) -> str:
    """The operation id of a grant with this idempotency key.

    It is also the id of the grant's event, and event ids are unique over all customers.
    """
    return f"grant:{customer_id}:{key}"


def grant_document(made: GrantMade) -> dict[str, Any]:
    """The grant as a JSON document."""
    return {
        "customer_id": made.customer_id,
        "amount": format_amount(made.amount_nano),
        "balance": format_amount(made.balance_nano),
        "grant": made.grant_no,
        "replayed": made.replayed,
        "key": made.key,
    }
