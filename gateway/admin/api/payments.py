"""Payments that other systems reported."""

from typing import Annotated, Literal

from fastapi import Depends, Path, Query
from pydantic import Field, StringConstraints
from starlette.requests import Request

from gateway.admin.api.models import Amount, ListOf, Model, Moment, Paging
from gateway.admin.api.routing import WriteKey, api_router
from gateway.admin.auth.guard import Session, require
from gateway.admin.context import context_of
from gateway.operations.payments import (
    PaymentStatus,
    get_payment,
    payment_document,
    retry_payment,
    waiting_payments,
)

router = api_router("Payments")

PaymentId = Annotated[
    str,
    Path(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,31}:[!-.0-~]{1,128}$",
        description="Source and the payment's id there.",
        examples=["stripe:pi_3NzVYdLkdIwHu7ix"],
    ),
]


class ReportedPayment(Model):
    """A payment and its current state."""

    object: Literal["payment"] = "payment"
    id: Annotated[str, Field(examples=["stripe:pi_3NzVYdLkdIwHu7ix"])]
    source: str
    payment_id: str
    status: PaymentStatus
    problem: Annotated[
        str | None, Field(description="Why it waits, or why it does not follow the last report.")
    ]
    livemode: bool
    customer_id: Annotated[str | None, Field(description="The wallet that it was credited to.")]
    grant: Annotated[int | None, Field(description="Number of the grant; null until it is made.")]
    credited: Amount | None
    taken_back: Annotated[Amount, Field(description="For refunds and lost disputes.")]
    currency: str | None
    disputes: dict[str, Literal["open", "won", "lost"]]
    seen_at: Moment


class WaitingQuery(Paging):
    """Which part of the list is wanted."""

    starting_after: Annotated[
        str | None,
        StringConstraints(pattern=r"^[0-9]{1,9}$"),
        Field(description="`next_cursor` of the page before."),
    ] = None


@router.get("/payments/waiting", summary="List payments that wait, with their problems")
async def list_waiting_payments(
    query: Annotated[WaitingQuery, Query()],
    session: Annotated[Session, Depends(require("payments.read"))],
) -> ListOf[ReportedPayment]:
    page = await waiting_payments(session.backend, int(query.starting_after or 0), query.limit)
    return ListOf[ReportedPayment](
        data=[ReportedPayment(**payment_document(each)) for each in page.payments],
        has_more=page.cursor is not None,
        next_cursor=None if page.cursor is None else str(page.cursor),
    )


@router.get("/payments/{payment_id}", summary="Retrieve a payment")
async def retrieve_payment(
    payment_id: PaymentId, session: Annotated[Session, Depends(require("payments.read"))]
) -> ReportedPayment:
    return ReportedPayment(**payment_document(await get_payment(session.backend, payment_id)))


@router.post("/payments/{payment_id}/retry", summary="Go on with a payment that waits")
async def retry_waiting_payment(
    payment_id: PaymentId,
    _: WriteKey,
    session: Annotated[Session, Depends(require("payments.write"))],
    request: Request,
) -> ReportedPayment:
    terms = context_of(request).settings.payments.terms(payment_id.partition(":")[0])
    payment = await retry_payment(session.backend, terms, payment_id)
    return ReportedPayment(**payment_document(payment))
