"""The price book: what is in force, what the configuration would change, and a customer's own prices."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Literal

from fastapi import Depends, Path, Query
from pydantic import Field

from gateway.admin.api.models import (
    NUMBER,
    Amount,
    Body,
    ListOf,
    Model,
    Moment,
    MomentMs,
    Period,
    Reason,
    WalletId,
)
from gateway.admin.api.routing import WriteKey, api_router
from gateway.admin.auth.guard import Session, require
from gateway.operations import price_books
from gateway.operations.plan_prices import (
    ENDLESS_MS,
    PlanRequest,
    plan_document,
    plan_prices,
)
from gateway.operations.price_books import activation_document, book_document, taken_document
from gateway.operations.price_changes import changes_document, pending_prices

router = api_router("Prices")

BookNumber = Annotated[int, Field(ge=1, le=2_147_483_647), NUMBER]


class Price(Model):
    """A price in words, by unit."""

    price_version: str
    prices: Annotated[Mapping[str, str], Field(examples=[{"input": "2.50 /M"}])]
    costs: Mapping[str, str] = Field(default_factory=dict)


class CustomerPrices(Model):
    """What differs for one customer of the configuration."""

    plan: str | None
    prices: Mapping[str, Price]


class Activation(Model):
    """From when a book is in force."""

    book: int
    from_: Annotated[Moment, Field(alias="from")]
    decided_at: Moment
    reason: str


class PriceBook(Model):
    """A price book."""

    object: Literal["price_book"] = "price_book"
    book: int
    state: str
    models: Mapping[str, Price]
    plans: Mapping[str, Mapping[str, Price]]
    customers: Mapping[str, CustomerPrices]
    schedule: Annotated[list[Activation], Field(description="Which books are in force when.")]


class PriceChange(Model):
    """A price that the configuration would change."""

    object: Literal["price_change"] = "price_change"
    model: str
    plan: str | None
    customer_id: str | None
    before: Price | None
    after: Price | None


class PlanLine(Model):
    """What usage was charged, and would be charged."""

    customer_id: str | None = None
    model: str | None = None
    service_tier: str | None = None
    events: int
    charged: Amount
    would_be: Amount | None
    change: Amount | None
    percent: str | None
    cost: Amount | None
    margin: Amount | None


class PricePlan(Model):
    """What a past period would have cost at the configuration's prices."""

    object: Literal["price_plan"] = "price_plan"
    since: Moment | None
    until: Moment | None
    lines: list[PlanLine]
    customers: list[PlanLine]
    total: PlanLine
    unpriced: Annotated[list[str], Field(description="Used, and without a price any more.")]
    untold: Annotated[
        Mapping[str, list[str]],
        Field(description="Model → classes of its new price that the old one did not distinguish."),
    ]
    below_cost: list[list[str]]


class PricesTaken(Model):
    """What became of applied prices."""

    object: Literal["price_book"] = "price_book"
    book: int
    state: str
    from_: Annotated[Moment | None, Field(alias="from")]


class ApplyBody(Body):
    """When the configuration's prices begin."""

    from_: Annotated[MomentMs | None, Field(alias="from", description="Now if omitted.")] = None
    reason: Reason | None = None


class ActivateBody(ApplyBody):
    """The book to put in force again."""

    book: BookNumber


class RollbackBody(Body):
    """Why."""

    reason: Reason | None = None


class PlanQuery(Period):
    """Which past usage is rated."""

    customer_id: WalletId | None = None


@router.get("/prices", summary="Retrieve the price book in force")
async def retrieve_prices(
    session: Annotated[Session, Depends(require("prices.read"))],
) -> PriceBook:
    return PriceBook(**book_document(await price_books.show_book(session.backend)))


@router.get("/prices/pending", summary="List what the configuration would change")
async def list_pending_prices(
    session: Annotated[Session, Depends(require("prices.read"))],
) -> ListOf[PriceChange]:
    backend = session.backend
    draft = await asyncio.to_thread(backend.configured.price_draft)
    changes = changes_document(await pending_prices(backend, draft))
    return ListOf[PriceChange](data=[PriceChange(**each) for each in changes], has_more=False)


@router.get("/prices/plan", summary="Rate a past period at the configuration's prices")
async def plan_of_prices(
    query: Annotated[PlanQuery, Query()],
    session: Annotated[Session, Depends(require("prices.read"))],
) -> PricePlan:
    backend = session.backend
    draft = await asyncio.to_thread(backend.configured.price_draft)
    since_ms, until_ms = query.since or 0, query.until or ENDLESS_MS
    billing_day_of = backend.configured.billing_day
    request = PlanRequest(draft, billing_day_of, since_ms, until_ms, query.customer_id)
    planned = await plan_prices(backend, request)
    return PricePlan(**plan_document(planned, (), since_ms, until_ms))


@router.get("/prices/books/{book}", summary="Retrieve a price book")
async def retrieve_price_book(
    book: Annotated[int, Path(ge=1, le=2_147_483_647)],
    session: Annotated[Session, Depends(require("prices.read"))],
) -> PriceBook:
    return PriceBook(**book_document(await price_books.show_book(session.backend, book)))


@router.post("/prices/apply", summary="Put the configuration's prices in force")
async def apply_prices(
    body: ApplyBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("prices.write"))],
) -> PricesTaken:
    backend = session.backend
    draft = await asyncio.to_thread(backend.configured.price_draft)
    taken = await price_books.apply_prices(backend, draft, body.from_, body.reason)
    return PricesTaken(**taken_document(taken))


@router.post("/prices/activate", summary="Put a book of the ledger in force again")
async def activate_prices(
    body: ActivateBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("prices.write"))],
) -> Activation:
    done = await price_books.activate_book(session.backend, body.book, body.from_, body.reason)
    return Activation(**activation_document(done))


@router.post(
    "/prices/rollback", summary="Cancel a change to come, else put the book before in force"
)
async def roll_back_prices(
    body: RollbackBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("prices.write"))],
) -> ListOf[Activation]:
    schedule = await price_books.roll_back_prices(session.backend, body.reason)
    done = [Activation(**activation_document(each)) for each in schedule.activations]
    return ListOf[Activation](data=done, has_more=False)
