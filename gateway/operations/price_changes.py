"""How a configuration's prices differ from the price book in force."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.domain.pricebook import Draft, PriceChange
from gateway.domain.pricing import PriceTable
from gateway.ledger.book_changes import Taken
from gateway.ledger.pricebook import UnreadablePrice
from gateway.operations.backend import Backend
from gateway.operations.errors import Conflict
from gateway.operations.price_text import rate_text


@dataclass(frozen=True, slots=True)
class PendingPrices:
    """Prices that wait to be applied. tables: every price that the changes name, by version."""

    taken: Taken
    tables: Mapping[str, PriceTable]

    @property
    def changes(self) -> tuple[PriceChange, ...]:
        """One for each price that differs."""
        return self.taken.changes

    def rates(self, version: str | None) -> dict[str, str]:
        """A price as unit → words; empty where it has none."""
        if version is None or version not in self.tables:
            return {}
        return {unit: rate_text(rate) for unit, rate in self.tables[version].rates.items()}


async def pending_prices(backend: Backend, draft: Draft) -> PendingPrices | None:
    """The draft's pending changes; None where its prices are in force or scheduled.

    Raises Conflict, LedgerUnavailable.
    """
    taken = await backend.accounts.books.look(draft)
    if taken is None or taken.state != "pending":
        return None
    return await named_prices(backend, draft, taken)


async def named_prices(backend: Backend, draft: Draft, taken: Taken) -> PendingPrices:
    """Changes with the prices that they name. Raises Conflict, LedgerUnavailable."""
    drafted = draft.tables()
    versions = {v for change in taken.changes for v in (change.before, change.after) if v}
    try:
        kept = await backend.accounts.books.tables(versions - drafted.keys())
    except UnreadablePrice as error:
        raise Conflict(str(error)) from error
    return PendingPrices(taken, {**drafted, **kept})


def changes_document(pending: PendingPrices | None) -> list[dict[str, Any]]:
    """The changes as a JSON document."""
    if pending is None:
        return []
    return [
        {
            "model": change.model,
            "plan": change.plan,
            "customer_id": change.customer_id,
            "before": _price(pending, change.before),
            "after": _price(pending, change.after),
        }
        for change in pending.changes
    ]


def _price(pending: PendingPrices, version: str | None) -> dict[str, Any] | None:
    if version is None:
        return None
    return {"price_version": version, "prices": pending.rates(version)}
