"""`statement`: show a customer's statement, and close it, so that it never changes again.

A closed statement's document is kept in the required store. It is shown from there, whatever has happened since;
what arrives for its period later is on the next statement, as corrections. Statements are closed in order.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import orjson

from gateway.domain.billing_periods import BillingPeriod, billing_period, label_after
from gateway.domain.customers import is_shadow
from gateway.domain.delivery import Place
from gateway.domain.stores import ClosedStatement, EventStore
from gateway.operations.audit import Noted, audited
from gateway.operations.backend import Backend
from gateway.operations.customers import owner_of, wallet_of
from gateway.operations.documents import timestamp
from gateway.operations.errors import Conflict, OperationError
from gateway.operations.statements.build import Sources, StatementRequest, build_statement
from gateway.operations.statements.document import (
    Document,
    digest_of,
    document_text,
    opening_from,
    statement_document,
)

DELIVERY_WAIT_S: Final = 30.0
POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class ShownStatement:
    """A statement to show. closed: as it is kept; None where the period is open"""

    document: Document
    closed: ClosedStatement | None


@dataclass(frozen=True, slots=True)
class Closing:
    """What became of one customer's period.

    problem: why it was not closed; None where it is
    already: it had been closed before
    """

    customer_id: str
    closed: ClosedStatement | None
    already: bool = False
    problem: str | None = None


async def show_statement(backend: Backend, customer_id: str, label: str) -> ShownStatement:
    """One customer's statement of the period that begins in a month, such as 2027-01.

    Raises NotFound, Conflict, StatementDiffers, LedgerUnavailable; ValueError for another label.
    """
    billing_period(label)
    closed = backend.store.closed_statement(customer_id, label)
    if closed is not None:
        return ShownStatement(_kept(closed), closed)
    await wallet_of(backend, customer_id)
    period = await _period(backend, customer_id, label)
    return ShownStatement(await _build(backend, customer_id, period), None)


def list_closed_statements(store: EventStore, customer_id: str) -> list[ClosedStatement]:
    """A customer's closed statements, the latest first."""
    found: list[ClosedStatement] = []
    kept = store.last_closed_statement(customer_id)
    while kept is not None:
        found.append(kept)
        kept = store.last_closed_statement(customer_id, before=kept.period)
    return found


async def close_statements(
    backend: Backend,
    label: str,
    customer_ids: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[Closing]:
    """Close the period of these customers, or of all. What is closed already stays as it is.

    progress: called with how many are done, of how many
    Raises NotFound, Conflict, LedgerUnavailable; ValueError for what is no month.
    """
    billing_period(label)
    for customer_id in customer_ids:
        await wallet_of(backend, customer_id)
    names = list(customer_ids)
    if not names:
        everyone = await backend.accounts.wallets.customers()
        names = [name for name in everyone if not is_shadow(name)]
    if not all(backend.store.closed_statement(each, label) for each in names):
        await _await_delivery(backend)
    found = []
    for done, customer_id in enumerate(names):
        if progress is not None:
            progress(done, len(names))
        try:
            found.append(await _close(backend, customer_id, label))
        except OperationError as error:
            found.append(Closing(customer_id, None, problem=str(error)))
    return found


async def _close(backend: Backend, customer_id: str, label: str) -> Closing:
    store = backend.store
    closed = store.closed_statement(customer_id, label)
    if closed is not None:
        return Closing(customer_id, closed, already=True)
    period, now_ms = await _period(backend, customer_id, label), await backend.accounts.now_ms()
    if now_ms < period.end_ms:
        raise Conflict(f"{label} of {customer_id} ends at {timestamp(period.end_ms)}")
    newest = store.last_closed_statement(customer_id)
    if newest is not None and newest.period > label:
        raise Conflict(
            f"{newest.period} of {customer_id} is closed, so {label} cannot be closed any more: what"
            " changed in it is part of the later statement"
        )
    document = await _build(backend, customer_id, period)
    document["closed_at"] = timestamp(now_ms)
    text = document_text(document)
    closing = ClosedStatement(customer_id, label, text, digest_of(text), now_ms)
    noted = Noted("statement.close", label, customer_id, after={"sha256": closing.sha256})
    async with audited(backend, noted):
        kept = backend.keep_statement(closing)
    return Closing(customer_id, kept, already=kept.document != text)


async def _build(backend: Backend, customer_id: str, period: BillingPeriod) -> Document:
    earlier = backend.store.last_closed_statement(customer_id, before=period.label)
    opening = opening_from(_kept(earlier)) if earlier else None
    if opening is not None and label_after(opening.period.label) == period.label:
        # The same moment, unless the billing day has changed: then, too, no day is left out or billed twice.
        period = replace(period, start_ms=opening.period.end_ms)
    subscription = backend.configured.subscription(await owner_of(backend, customer_id))
    request = StatementRequest(customer_id, period, subscription, opening)
    sources = Sources(backend.store, backend.accounts.books, backend.reservations)
    return statement_document(await build_statement(sources, request))


async def _period(backend: Backend, customer_id: str, label: str) -> BillingPeriod:
    """The customer's period, by the configured billing day, else by the wallet's."""
    day = backend.configured.billing_day(customer_id)
    if day is None:
        wallet = (await backend.accounts.wallets.read([customer_id])).get(customer_id)
        day = wallet.billing_day if wallet else 1
    return billing_period(label, day)


def _kept(closed: ClosedStatement) -> Document:
    """A closed statement's document. Raises Conflict if it is not what was closed."""
    if digest_of(closed.document) != closed.sha256:
        raise Conflict(
            f"the statement of {closed.customer_id} for {closed.period} was changed in the store after"
            f" it was closed: its SHA-256 is not {closed.sha256}"
        )
    document: Document = orjson.loads(closed.document)
    return document


async def _await_delivery(backend: Backend) -> None:
    """Wait until the store has everything that the ledger has written so far. Raises Conflict."""
    written = {
        number: head.last
        for number, head in enumerate(await backend.outbox.heads())
        if head.last.seq >= 0
    }
    deadline = asyncio.get_running_loop().time() + DELIVERY_WAIT_S
    while waiting := _behind(written, backend.store.cursors()):
        if asyncio.get_running_loop().time() > deadline:
            raise Conflict(
                f"the store has not received all events of shard {waiting[0]} yet. Closed now, the"
                " statement could lack some: wait until the exporter has delivered them"
            )
        await asyncio.sleep(POLL_S)


def _behind(written: dict[int, Place], stored: dict[int, Place]) -> list[int]:
    return [number for number, place in written.items() if stored.get(number, Place(0, 0)) < place]
