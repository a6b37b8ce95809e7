"""`void`: take back what is left of a grant and end it."""

from dataclasses import dataclass
from typing import Any

from gateway.domain.money import format_amount
from gateway.ledger.client.errors import LedgerRefusal
from gateway.operations.audit import signed
from gateway.operations.backend import Backend
from gateway.operations.customers import wallet_of
from gateway.operations.errors import Conflict


@dataclass(frozen=True, slots=True)
class GrantVoided:
    """A grant that is void now.

    voided_nano: what was taken back. held_nano: what running requests hold of it and may still spend
    replayed:    it was void before
    """

    customer_id: str
    grant_no: int
    voided_nano: int
    held_nano: int
    balance_nano: int
    replayed: bool


async def void(backend: Backend, customer_id: str, grant_no: int, reason: str) -> GrantVoided:
    """Void a grant. What running requests give back of it later is forfeited.

    Raises NotFound, Conflict, LedgerUnavailable.
    """
    await wallet_of(backend, customer_id)
    operation_id = void_operation_id(customer_id, grant_no)
    try:
        facts = signed(backend, "grant.void", reason)
        done = await backend.wallets.void(customer_id, operation_id, grant_no, reason, facts)
    except LedgerRefusal as refused:
        if refused.word != "unknown_grant":
            raise
        raise Conflict(
            f"{customer_id} has no grant {grant_no} with anything left in it that is not held"
        ) from refused
    return GrantVoided(
        customer_id, grant_no, done.voided_nano, done.held_nano, done.balance_nano, done.replayed
    )


def void_operation_id(customer_id: str, grant_no: int) -> str:
    """The operation id of voiding a grant: a grant is voided once."""
    return f"void:{customer_id}:{grant_no}"


def void_document(voided: GrantVoided) -> dict[str, Any]:
    """The voided grant as a JSON document."""
    return {
        "customer_id": voided.customer_id,
        "grant": voided.grant_no,
        "voided": format_amount(voided.voided_nano),
        "held": format_amount(voided.held_nano),
        "balance": format_amount(voided.balance_nano),
        "replayed": voided.replayed,
    }
