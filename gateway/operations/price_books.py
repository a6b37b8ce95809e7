"""The price book: show one, apply a configuration's prices, activate another, roll back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.domain.pricebook import Activation, Book, Draft, PriceChange, Schedule
from gateway.domain.pricing import PriceTable
from gateway.ledger.book_changes import Taken
from gateway.ledger.pricebook import NothingToUndo, UnknownBook, UnreadablePrice
from gateway.operations.audit import Noted, audited
from gateway.operations.backend import Backend
from gateway.operations.documents import timestamp
from gateway.operations.errors import Conflict, NotFound
from gateway.operations.price_text import rate_text, unit_price

NOTED_MOST: Final = 100
"""Changes that the audit log names: an entry must stay small."""


@dataclass(frozen=True, slots=True)
class BookView:
    """A price book with its prices, and which books are in force when.

    tables: every price of the book, by version. now_ms: the ledger's clock, Unix ms
    """

    number: int
    book: Book
    tables: Mapping[str, PriceTable]
    schedule: Schedule
    now_ms: int


async def show_book(backend: Backend, number: int | None = None) -> BookView:
    """A price book; None for the one in force. Raises NotFound, Conflict, LedgerUnavailable."""
    books = backend.accounts.books
    schedule, now_ms = await books.schedule()
    current = schedule.at(now_ms)
    wanted = number if number is not None else current.number if current else None
    if wanted is None:
        raise NotFound("the ledger has no price book yet: start the gate, or `prices apply`")
    try:
        book = await books.book(wanted)
        tables = await books.tables(book.versions())
    except UnknownBook as error:
        raise NotFound(str(error)) from error
    except UnreadablePrice as error:
        raise Conflict(str(error)) from error
    return BookView(wanted, book, tables, schedule, now_ms)


async def apply_prices(
    backend: Backend, draft: Draft, from_ms: int | None = None, reason: str | None = None
) -> Taken:
    """Put a draft's prices in force. from_ms: Unix ms; None for now. Raises LedgerUnavailable."""
    books = backend.accounts.books
    stands = await books.look(draft)
    changes = stands.changes if stands is not None else ()
    noted = Noted(
        "prices.apply",
        f"book {stands.number}" if stands is not None else "the first book",
        reason=reason,
        before=_versions(changes, lambda change: change.before),
        after={**_versions(changes, lambda change: change.after), **_begins(from_ms)},
    )
    async with audited(backend, noted):
        await backend.accounts.prices.put(draft.tables().values())
        return await books.apply(draft, from_ms)


async def activate_book(
    backend: Backend, number: int, from_ms: int | None = None, reason: str | None = None
) -> Activation:
    """Put a book of the ledger in force again. Raises NotFound, LedgerUnavailable."""
    books = backend.accounts.books
    try:
        await books.book(number)
    except UnknownBook as error:
        raise NotFound(str(error)) from error
    before = {"book": await _number_in_force(backend)}
    after = {"book": number, **_begins(from_ms)}
    noted = Noted("prices.activate", f"book {number}", "", reason, before, after)
    async with audited(backend, noted):
        return await books.activate(number, from_ms)


async def roll_back_prices(backend: Backend, reason: str | None = None) -> Schedule:
    """Undo the last change: cancel one to come, else put the book before in force.

    Raises Conflict, LedgerUnavailable.
    """
    in_force = await _number_in_force(backend)
    noted = Noted("prices.rollback", f"book {in_force}", reason=reason, before={"book": in_force})
    async with audited(backend, noted):
        try:
            return await backend.accounts.books.rollback()
        except NothingToUndo as error:
            raise Conflict(str(error)) from error


def book_document(view: BookView) -> dict[str, Any]:
    """A price book as a JSON document."""

    def prices(overrides: Mapping[str, str]) -> dict[str, Any]:
        return {model: price_document(view.tables[version]) for model, version in overrides.items()}

    book = view.book
    return {
        "book": view.number,
        "state": view.schedule.state_of(view.number, view.now_ms),
        "models": prices(book.models),
        "plans": {plan: prices(overrides) for plan, overrides in book.plans.items()},
        "customers": {
            name: {"plan": customer.plan, "prices": prices(customer.prices)}
            for name, customer in book.customers.items()
        },
        "schedule": [activation_document(each) for each in view.schedule.activations],
    }


def activation_document(activation: Activation) -> dict[str, Any]:
    """From when a book is in force, as a JSON document."""
    return {
        "book": activation.number,
        "from": timestamp(activation.from_ms),
        "decided_at": timestamp(activation.decided_ms),
        "reason": activation.reason,
    }


def taken_document(taken: Taken) -> dict[str, Any]:
    """What became of applied prices, as a JSON document."""
    begins = timestamp(taken.from_ms) if taken.from_ms else None
    return {"book": taken.number, "state": taken.state, "from": begins}


async def _number_in_force(backend: Backend) -> int | None:
    schedule, now_ms = await backend.accounts.books.schedule()
    current = schedule.at(now_ms)
    return current.number if current else None


def _begins(from_ms: int | None) -> dict[str, str]:
    return {} if from_ms is None else {"from": timestamp(from_ms)}


def _versions(
    changes: Sequence[PriceChange], version: Callable[[PriceChange], str | None]
) -> dict[str, str | None]:
    """Model, and whose price it is → version. Of very many changes the first."""
    found = {}
    for change in changes[:NOTED_MOST]:
        whose = change.customer_id or (f"plan {change.plan}" if change.plan else None)
        found[f"{change.model} ({whose})" if whose else change.model] = version(change)
    return found


def price_document(price: PriceTable) -> dict[str, Any]:
    """A price as a JSON document, in words."""
    return {
        "price_version": price.price_version,
        "prices": {unit: rate_text(rate) for unit, rate in price.rates.items()},
        "costs": {unit: unit_price(unit, pico) for unit, pico in price.costs_pico.items()},
    }
