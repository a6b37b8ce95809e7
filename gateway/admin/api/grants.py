"""Wallets and grants."""

from typing import Annotated, Literal

from fastapi import Depends, Path, Query
from pydantic import Field

from gateway.admin.api.errors import ApiError
from gateway.admin.api.models import (
    NUMBER,
    Amount,
    Body,
    Line,
    ListOf,
    Model,
    Moment,
    MomentMs,
    Paging,
    PositiveAmount,
    Reason,
    WalletId,
)
from gateway.admin.api.routing import WriteKey, api_router
from gateway.admin.auth.guard import Session, require
from gateway.ledger.codec.operations import DEFAULT_PRIORITY
from gateway.operations.grant import GrantRequest, grant, grant_document
from gateway.operations.void import void, void_document
from gateway.operations.wallets import WalletView, show_wallet, wallet_document

router = api_router("Wallets and grants")

Category = Literal["paid", "promotional", "allowance", "adjustment"]
GrantId = Annotated[
    str,
    Path(
        pattern=r"^gr_[A-Za-z0-9][A-Za-z0-9._@-]{0,127}(~test|~shadow)?_[1-9][0-9]{0,9}$",
        description="A grant's id.",
        examples=["gr_acme_3"],
    ),
]


class Grant(Model):
    """Dated credit with a remainder."""

    object: Literal["grant"] = "grant"
    id: Annotated[str, Field(examples=["gr_acme_3"])]
    customer_id: str
    name: str | None
    status: Literal["active", "not yet", "expired", "voided"]
    category: Category
    priority: Annotated[int, Field(description="0 to 255; lower is spent first.")]
    remaining: Amount
    held: Annotated[Amount, Field(description="Credits of this grant that running requests hold.")]
    effective_at: Moment
    expires_at: Moment | None
    created_at: Moment
    groups: Annotated[
        list[str], Field(description="Model groups that it pays for; empty for every model.")
    ]


class NewGrantBody(Body):
    """A grant to make."""

    customer_id: WalletId
    amount: PositiveAmount
    category: Category = "paid"
    priority: Annotated[int, Field(ge=0, le=255), NUMBER] = DEFAULT_PRIORITY
    expires_at: MomentMs | None = None
    name: Line | None = None
    reason: Reason | None = None


class GrantMade(Model):
    """A grant that was made."""

    object: Literal["grant"] = "grant"
    id: str
    customer_id: str
    amount: Amount
    balance: Annotated[Amount, Field(description="The wallet's balance with it.")]
    replayed: Annotated[
        bool, Field(description="Whether an earlier request with this key had made it.")
    ]


class VoidBody(Body):
    """Why a grant is taken back."""

    reason: Reason


class GrantVoided(Model):
    """A grant that is void."""

    object: Literal["grant"] = "grant"
    id: str
    customer_id: str
    voided: Annotated[Amount, Field(description="Credits that were taken back.")]
    held: Annotated[Amount, Field(description="Credits that running requests may still spend.")]
    balance: Amount
    replayed: Annotated[bool, Field(description="Whether it was void before.")]


class GrantsQuery(Paging):
    """Which grants are wanted."""

    customer_id: WalletId


@router.get("/grants", summary="List the grants of a customer, in burn order")
async def list_grants(
    query: Annotated[GrantsQuery, Query()],
    session: Annotated[Session, Depends(require("grants.read"))],
) -> ListOf[Grant]:
    view = await show_wallet(session.backend, query.customer_id)
    return ListOf[Grant].page(grants_of(view), query, lambda each: each.id)


@router.get("/grants/{grant_id}", summary="Retrieve a grant")
async def retrieve_grant(
    grant_id: GrantId, session: Annotated[Session, Depends(require("grants.read"))]
) -> Grant:
    customer_id, _ = grant_place(grant_id)
    view = await show_wallet(session.backend, customer_id)
    for each in grants_of(view):
        if each.id == grant_id:
            return each
    raise ApiError(
        "not_found", f"There is no grant {grant_id} with anything left in it.", param="grant_id"
    )


@router.post("/grants", summary="Add credit to a wallet", status_code=201)
async def create_grant(
    body: NewGrantBody,
    key: WriteKey,
    session: Annotated[Session, Depends(require("grants.write"))],
) -> GrantMade:
    made = await grant(
        session.backend,
        GrantRequest(
            body.customer_id,
            key,
            body.amount,
            body.category,
            body.priority,
            body.expires_at,
            body.name,
            body.reason,
        ),
    )
    document = grant_document(made)
    return GrantMade(**document | {"id": grant_id_of(made.customer_id, made.grant_no)})


@router.post("/grants/{grant_id}/void", summary="Take back what is left of a grant")
async def void_grant(
    grant_id: GrantId,
    body: VoidBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("grants.write"))],
) -> GrantVoided:
    customer_id, grant_no = grant_place(grant_id)
    document = void_document(await void(session.backend, customer_id, grant_no, body.reason))
    return GrantVoided(**document | {"id": grant_id})


def grants_of(view: WalletView) -> list[Grant]:
    """The grants of a wallet that have something left, in burn order."""
    return [
        Grant(
            **each | {"id": grant_id_of(view.customer_id, each["grant"])},
            customer_id=view.customer_id,
        )
        for each in wallet_document(view)["grants"]
    ]


def grant_id_of(customer_id: str, grant_no: int) -> str:
    """The id of a grant: the ledger numbers those of a customer."""
    return f"gr_{customer_id}_{grant_no}"


def grant_place(grant_id: str) -> tuple[str, int]:
    """Customer and number of a grant's id."""
    customer_id, _, grant_no = grant_id.removeprefix("gr_").rpartition("_")
    return customer_id, int(grant_no)
