"""Prices of single customers, in place of their plan's and the model's."""

from typing import Annotated, Any, Literal

from fastapi import Depends, Path
from pydantic import Field

from gateway.admin.api.errors import ApiError
from gateway.admin.api.models import Body, ListOf, Model, ModelName, Reason, RecordId
from gateway.admin.api.prices import Price
from gateway.admin.api.routing import WriteKey, api_router
from gateway.admin.auth.guard import Session, require
from gateway.operations.own_prices import remove_own_price, set_own_price, show_own_prices

router = api_router("Prices")


class OwnPriceBody(Body):
    """A price for one customer."""

    price: Annotated[
        dict[str, Any],
        Field(
            min_length=1,
            description="As `customers.NAME.prices.MODEL` of the configuration takes it.",
            examples=[{"input": "2.00", "output": "8.00"}],
        ),
    ]
    reason: Reason | None = None


class OwnPrice(Price):
    """A customer's own price of a model. It replaces the plan's and the model's."""

    object: Literal["own_price"] = "own_price"
    customer_id: str
    model: str


class OwnPriceGone(Model):
    """A customer's own price that was removed."""

    object: Literal["own_price"] = "own_price"
    customer_id: str
    model: str
    deleted: Literal[True] = True


@router.get("/customers/{customer_id}/prices", summary="List a customer's own prices")
async def list_own_prices(
    customer_id: Annotated[RecordId, Path()],
    session: Annotated[Session, Depends(require("prices.read"))],
) -> ListOf[OwnPrice]:
    found = await show_own_prices(session.backend, customer_id)
    prices = [
        OwnPrice(**price, customer_id=customer_id, model=model) for model, price in found.items()
    ]
    return ListOf[OwnPrice](data=prices, has_more=False)


@router.put("/customers/{customer_id}/prices/{model:path}", summary="Set a customer's own price")
async def put_own_price(
    customer_id: Annotated[RecordId, Path()],
    model: Annotated[ModelName, Path()],
    body: OwnPriceBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("prices.write"))],
) -> OwnPrice:
    backend = session.backend
    try:
        await set_own_price(backend, customer_id, model, body.price, body.reason)
    except ValueError as error:
        raise ApiError("parameter_invalid", f"`price`: {error}.", param="price") from error
    price = (await show_own_prices(backend, customer_id))[model]
    return OwnPrice(**price, customer_id=customer_id, model=model)


@router.delete(
    "/customers/{customer_id}/prices/{model:path}", summary="Remove a customer's own price"
)
async def delete_own_price(
    customer_id: Annotated[RecordId, Path()],
    model: Annotated[ModelName, Path()],
    _: WriteKey,
    session: Annotated[Session, Depends(require("prices.write"))],
    reason: Reason | None = None,
) -> OwnPriceGone:
    await remove_own_price(session.backend, customer_id, model, reason)
    return OwnPriceGone(customer_id=customer_id, model=model)
