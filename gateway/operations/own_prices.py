"""A customer's own prices: what it pays instead of its plan's and the model's price."""

from collections.abc import Mapping
from typing import Any

from gateway.operations.backend import Backend
from gateway.operations.errors import Conflict


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
