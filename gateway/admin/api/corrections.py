"""Refunds and adjustments."""

from typing import Annotated, Literal

from fastapi import Depends
from pydantic import Field

from gateway.admin.api.models import (
    Amount,
    Body,
    EventId,
    Model,
    PositiveAmount,
    Reason,
    SignedAmount,
    WalletId,
)
from gateway.admin.api.routing import WriteKey, api_router
from gateway.admin.auth.guard import Session, require
from gateway.operations.adjust import (
    AdjustRequest,
    adjust,
    adjust_operation_id,
    adjustment_document,
)
from gateway.operations.refund import RefundRequest, refund, refund_document, refund_operation_id

router = api_router("Refunds and adjustments")


class NewRefundBody(Body):
    """A full or partial refund of a charge."""

    event_id: EventId
    amount: Annotated[
        PositiveAmount | None, Field(description="All that is left of the charge if omitted.")
    ] = None
    reason: Reason


class Refund(Model):
    """Credit that was given back to the grants that paid."""

    object: Literal["refund"] = "refund"
    id: Annotated[str, Field(description="Also the id of its event.")]
    event_id: Annotated[str, Field(description="The charge that it gives back.")]
    customer_id: str
    amount: Amount
    left: Annotated[Amount, Field(description="What is left to refund of the charge.")]
    balance: Amount
    replayed: Annotated[
        bool, Field(description="Whether an earlier request with this key had made it.")
    ]


class NewAdjustmentBody(Body):
    """A correction of a wallet by hand."""

    customer_id: WalletId
    amount: Annotated[
        SignedAmount,
        Field(
            description="More than 0 gives credit, which repays the overdraft first and never"
            " expires; less than 0 takes it."
        ),
    ]
    corrects: Annotated[EventId | None, Field(description="The event that it corrects.")] = None
    reason: Reason


class Adjustment(Model):
    """A correction that was made."""

    object: Literal["adjustment"] = "adjustment"
    id: Annotated[str, Field(description="Also the id of its event.")]
    customer_id: str
    amount: Amount
    balance: Amount
    corrects: str | None
    replayed: Annotated[
        bool, Field(description="Whether an earlier request with this key had made it.")
    ]


@router.post("/refunds", summary="Give back a charge, or a part of it", status_code=201)
async def create_refund(
    body: NewRefundBody,
    key: WriteKey,
    session: Annotated[Session, Depends(require("refunds.write"))],
) -> Refund:
    made = await refund(
        session.backend, RefundRequest(body.event_id, key, body.reason, body.amount)
    )
    return Refund(**refund_document(made), id=refund_operation_id(body.event_id, key))


@router.post("/adjustments", summary="Correct a wallet by hand", status_code=201)
async def create_adjustment(
    body: NewAdjustmentBody,
    key: WriteKey,
    session: Annotated[Session, Depends(require("adjustments.write"))],
) -> Adjustment:
    made = await adjust(
        session.backend,
        AdjustRequest(body.customer_id, key, body.amount, body.reason, body.corrects),
    )
    return Adjustment(
        **adjustment_document(made),
        id=adjust_operation_id(body.customer_id, key),
        corrects=body.corrects,
    )
