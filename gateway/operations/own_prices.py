"""A customer's own prices: what it pays instead of its plan's and the model's price."""

from collections.abc import Mapping
from typing import Any

from gateway.operations.backend import Backend
from gateway.operations.customer_changes import CustomerChange, update_customer
from gateway.operations.customers import CustomerView, get_customer
from gateway.operations.errors import Conflict, NotFound
from gateway.operations.price_books import price_document


async def keep_own_prices(
    backend: Backend, prices: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Keep prices, model → price as the configuration writes it; returns their versions by model.

    Nobody pays them until a customer names their versions. Raises Conflict, LedgerUnavailable.
    """
    try:
        read = {model: backend.configured.own_price(model, own) for model, own in prices.items()}
    except ValueError as error:
        raise Conflict(str(error)) from error
    return {model: await backend.accounts.books.keep(price) for model, price in read.items()}


async def set_own_price(
    backend: Backend,
    customer_id: str,
    model: str,
    price: Mapping[str, Any],
    reason: str | None = None,
) -> CustomerView:
    """Charge a customer this price for a model, from its next request on.

    price: as `customers.NAME.prices.MODEL` of the configuration takes it
    Raises NotFound, Conflict, LedgerUnavailable; ValueError for a price that cannot be rated.
    """
    if model not in backend.configured.models:
        raise NotFound(f"there is no model {model} in the configuration")
    made = backend.configured.own_price(model, price)
    record = (await get_customer(backend, customer_id)).record
    version = await backend.accounts.books.keep(made)
    prices = {**record.prices, model: version}
    return await update_customer(backend, customer_id, CustomerChange(prices=prices), reason)


async def remove_own_price(
    backend: Backend, customer_id: str, model: str, reason: str | None = None
) -> CustomerView:
    """Charge a customer its plan's price for a model again. Raises NotFound, Conflict, LedgerUnavailable."""
    record = (await get_customer(backend, customer_id)).record
    if model not in record.prices:
        raise NotFound(f"{customer_id} has no price of its own for {model}")
    prices = {name: version for name, version in record.prices.items() if name != model}
    return await update_customer(backend, customer_id, CustomerChange(prices=prices), reason)


async def show_own_prices(backend: Backend, customer_id: str) -> dict[str, dict[str, Any]]:
    """Model → the customer's own price as a JSON document. Raises NotFound, Conflict, LedgerUnavailable."""
    own = (await get_customer(backend, customer_id)).record.prices
    kept = await backend.accounts.books.tables(own.values())
    missing = sorted(set(own.values()) - kept.keys())
    if missing:
        raise Conflict(f"the ledger has no price {missing[0]}")
    return {model: price_document(kept[version]) for model, version in sorted(own.items())}
