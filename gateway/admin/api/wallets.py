"""Wallets: a customer's money as it stands."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Depends, Path
from pydantic import Field

from gateway.admin.api.grants import Grant, grants_of
from gateway.admin.api.limit_models import LimitStanding
from gateway.admin.api.models import Amount, Model, Moment, WalletId
from gateway.admin.api.routing import api_router
from gateway.admin.auth.guard import Session, require
from gateway.operations.backend import Backend
from gateway.operations.documents import timestamp
from gateway.operations.wallets import show_wallet, wallet_document

router = api_router("Wallets and grants")


class RecurringGrant(Model):
    """A grant that is renewed each period."""

    name: str | None
    every: str
    amount: Amount
    rollover_max: Amount
    configured: bool


class Wallet(Model):
    """A wallet at one moment."""

    object: Literal["wallet"] = "wallet"
    id: Annotated[str, Field(description="The customer's id.", examples=["acme"])]
    status: Literal["active", "frozen", "killed"]
    at: Moment
    balance: Amount
    held: Amount
    available: Amount
    available_by_group: Mapping[str, Amount] | None = None
    overdraft: Amount
    credit_limit: Amount
    granted: Amount
    settled: Amount
    expired: Amount
    voided: Amount
    adjusted: Amount
    open_reservations: int
    grants: list[Grant]
    limits: list[LimitStanding]
    recurring_grants: list[RecurringGrant]


@router.get("/wallets/{customer_id}", summary="Retrieve a wallet")
async def retrieve_wallet(
    customer_id: Annotated[WalletId, Path()],
    session: Annotated[Session, Depends(require("wallets.read"))],
) -> Wallet:
    return await read_wallet(session.backend, customer_id)


async def read_wallet(backend: Backend, customer_id: str) -> Wallet:
    """A wallet as it stands. Raises NotFound, Conflict, LedgerUnavailable."""
    view = await show_wallet(backend, customer_id)
    document: dict[str, Any] = wallet_document(view)
    return Wallet(
        **document | {"id": customer_id, "at": timestamp(view.now_ms), "grants": grants_of(view)}
    )
