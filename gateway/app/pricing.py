"""Follows the price book: which prices this gate serves by, now and next.

Invariants: the ledger says which book is in force, not the configuration. A change is announced
`LEAD_MS` ahead, gates ask every `ASK_EVERY_S`, and each takes it over at the announced moment by
the ledger's clock: so no two gates charge by different books, but for the error of that clock's
reading (half a round trip). A gate that cannot ask cannot reserve either.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from gateway.domain.pricebook import Book, Schedule
from gateway.domain.pricing import PriceTable
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.pricebook import PriceBooks, UnknownBook, UnreadablePrice
from gateway.telemetry.logs import failure

log = structlog.get_logger("prices")

ASK_EVERY_S = 1.0


class PriceFeed:
    """The books of a gate."""

    def __init__(self, books: PriceBooks) -> None:
        self._books = books
        self._schedule = Schedule()
        self._known: dict[int, Book] = {}
        self._offset_ms = 0.0
        self._asked = asyncio.Event()
        self._number: int | None = None
        self.tables: dict[str, PriceTable] = {}
        """Every price of the books that are or will be in force, by version."""

    @property
    def book(self) -> Book:
        """The book in force; an empty one while there is none."""
        return self._known.get(self._number or 0, Book({}))

    @property
    def number(self) -> int | None:
        """Its number."""
        return self._number

    def ask_now(self) -> None:
        """Ask the ledger at once: something has changed."""
        self._asked.set()

    async def ask(self) -> None:
        """Read the schedule, and the books that are or will be in force.

        Raises LedgerUnavailable, UnreadablePrice, UnknownBook.
        """
        before = time.time()
        schedule, now_ms = await self._books.schedule()
        self._offset_ms = now_ms - (before + time.time()) * 500
        current = schedule.at(now_ms)
        wanted = {each.number for each in schedule.activations if each.from_ms > now_ms}
        if current is not None:
            wanted.add(current.number)
        books = {n: self._known.get(n) or await self._books.book(n) for n in wanted}
        versions = {version for book in books.values() for version in book.versions()}
        missing = versions - self.tables.keys()
        if missing:
            self.tables.update(await self._books.tables(missing))
        self._known, self._schedule = books, schedule
        self._number = self._current()

    async def run(self, on_change: Callable[[], None]) -> None:
        """Follow the book without end; `on_change` is called when another one is in force."""
        while True:
            before = self._number
            try:
                await self.ask()
            except LedgerUnavailable:
                pass  # nothing is reserved either until it answers
            except (UnreadablePrice, UnknownBook) as error:
                log.error("price_book_unreadable", **failure(error))
            self._number = self._current()
            if self._number != before:
                log.info("prices_in_force", book=self._number)
                on_change()
            await self._pause()

    async def _pause(self) -> None:
        """Until the next activation, the next question, or `ask_now`."""
        upcoming = self._schedule.next(self._now_ms())
        until_s = ASK_EVERY_S
        if upcoming is not None:
            until_s = min(until_s, max(0.0, (upcoming.from_ms - self._now_ms()) / 1000 + 0.001))
        with suppress(TimeoutError):
            async with asyncio.timeout(until_s):
                await self._asked.wait()
        self._asked.clear()

    def _current(self) -> int | None:
        """The number of the book in force by now, among those that have been read."""
        current = self._schedule.at(self._now_ms())
        return current.number if current is not None else None

    def _now_ms(self) -> int:
        """The ledger's clock, as far as it is known."""
        return int(time.time() * 1000 + self._offset_ms)
