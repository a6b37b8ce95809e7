"""The price book in the ledger: immutable prices and books, and one schedule of which is in force.

Off the hot path, through redis-py; no script reads these keys (a hold carries the rows it is charged by).

| key | type | holds |
|---|---|---|
| `{cg}:rates` | hash | price_version → msgpack: the price as it was given; set once, never changed |
| `{cg}:books` | hash | book number → msgpack: the book; set once, never changed |
| `{cg}:book` | string | msgpack: the schedule, and the last number |

Invariants: every change of the schedule is one transaction that watches `{cg}:book`, so two operators
never overwrite each other. A price that somebody pays changes only by an operator's command
(`apply`, `activate`, `rollback`), or where `prices.auto_apply` is set; a configuration that differs
from the book is pending.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.exceptions import WatchError

from gateway.domain.pricebook import (
    Activation,
    Book,
    Draft,
    Price,
    Schedule,
    adds_only,
    price_changes,
    undo,
)
from gateway.domain.pricing import PriceTable
from gateway.ledger.book_changes import Change, Taken, add_book, taken_as
from gateway.ledger.client.clock import clock_ms
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import unavailable
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.price_book import (
    BookPointer,
    pack_pointer,
    pack_price,
    read_book,
    read_pointer,
    read_price,
)

T = TypeVar("T")

LEAD_MS: Final = 2_000
"""How long before it is in force a change of prices is announced: twice what gates take to ask."""
_TRIES: Final = 50


class UnknownBook(Exception):
    """The ledger has no price book of this number."""


class NothingToUndo(Exception):
    """No other price book was in force before the present one."""


class UnreadablePrice(Exception):
    """A price of the book was written by a release that rates it otherwise; update this one."""


class PriceBooks:
    """The books of one ledger. Every method raises LedgerUnavailable."""

    def __init__(
        self,
        client: Redis,
        *,
        namespace: str = "cg",
        plans_in_use: Callable[[], Awaitable[Iterable[str]]] | None = None,
    ) -> None:
        """plans_in_use: the plans that customers in the ledger are on; None is without any"""
        self._plans_in_use = plans_in_use
        keys = Keys(namespace)
        self._rates, self._books = keys.common("rates"), keys.common("books")
        self._pointer = keys.common("book")
        self._client: Any = client  # its stubs promise text where this client answers bytes

    # Reading

    async def schedule(self) -> tuple[Schedule, int]:
        """All activations, and the time by the ledger's clock in Unix ms."""
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.get(self._pointer)
            pipe.time()
            with unavailable():
                raw, clock = await pipe.execute()
        return read_pointer(raw).schedule, clock_ms(clock)

    async def in_force(self) -> tuple[int, Book] | None:
        """The book in force now with its number; None while there is none."""
        schedule, now_ms = await self.schedule()
        current = schedule.at(now_ms)
        return None if current is None else (current.number, await self.book(current.number))

    async def book(self, number: int) -> Book:
        """A book by its number. Raises UnknownBook."""
        with unavailable():
            raw = await self._client.hget(self._books, number)
        if raw is None:
            raise UnknownBook(f"there is no price book {number}")
        return read_book(raw)

    async def numbers(self) -> list[int]:
        """The numbers of all books, ascending."""
        with unavailable():
            return sorted(int(number) for number in await self._client.hkeys(self._books))

    async def prices(self, versions: Iterable[str]) -> dict[str, Price]:
        """Those of the prices that are kept, by version."""
        wanted = sorted(set(versions))
        if not wanted:
            return {}
        with unavailable():
            found = await self._client.hmget(self._rates, wanted)
        return {v: read_price(raw) for v, raw in zip(wanted, found, strict=True) if raw}

    async def tables(self, versions: Iterable[str]) -> dict[str, PriceTable]:
        """The prices as rows for the scripts, by version. Raises UnreadablePrice."""
        tables = {}
        for version, price in (await self.prices(versions)).items():
            table = tables[version] = price.table()
            if table.price_version != version:
                raise UnreadablePrice(f"this release does not rate the price {version} as it was")
        return tables

    # Changing

    async def keep(self, price: Price) -> str:
        """Keep a price that is in no book, such as a customer's own; returns its version."""
        version = price.table().price_version
        await self._keep({version: price})
        return version

    async def take(
        self,
        draft: Draft,
        *,
        new_customers: frozenset[str] = frozenset(),
        auto_apply: bool = False,
    ) -> Taken:
        """Add what nobody pays by yet: the first prices of all, new models, new customers' prices.

        auto_apply: also put changed prices in force, in `LEAD_MS`, so that every gate knows by then
        """
        await self._keep(draft.prices)

        async def change(pointer: BookPointer, now_ms: int) -> Change[Taken]:
            current = pointer.schedule.at(now_ms)
            if current is None:
                return add_book(pointer, draft.book, now_ms, 0, "configuration")
            base = await self.book(current.number)
            if auto_apply:
                return await self._make_newest(pointer, draft, base, now_ms)
            added = await self._added(draft, base, new_customers)
            if added == base:
                return Change(pointer, await self._compare(pointer.schedule, draft, base, now_ms))
            changed = add_book(pointer, added, now_ms, now_ms, "configuration")
            taken = await self._compare(changed.pointer.schedule, draft, added, now_ms)
            return Change(changed.pointer, taken, changed.book)

        return await self._change(change)

    async def look(self, draft: Draft, new_customers: frozenset[str] = frozenset()) -> Taken | None:
        """How a configuration's prices stand; changes nothing. None while there is no book in force."""
        schedule, now_ms = await self.schedule()
        current = schedule.at(now_ms)
        if current is None:
            return None
        base = await self.book(current.number)
        added = await self._added(draft, base, new_customers)
        return await self._compare(schedule, draft, added, now_ms)

    async def apply(self, draft: Draft, from_ms: int | None = None) -> Taken:
        """Put prices in force from a moment on (None: now)."""
        await self._keep(draft.prices)

        async def change(pointer: BookPointer, now_ms: int) -> Change[Taken]:
            begins = max(now_ms, from_ms or 0)
            current = pointer.schedule.at(begins)
            if current is None:
                return add_book(pointer, draft.book, now_ms, from_ms or 0, "apply")
            base = await self.book(current.number)
            book = draft.on(base)
            if book == base:  # nothing differs from what is in force then
                return Change(pointer, taken_as(pointer.schedule, current.number, now_ms))
            if not adds_only(base, book):
                begins = max(begins, now_ms + LEAD_MS)
            return add_book(pointer, book, now_ms, begins, "apply")

        return await self._change(change)

    async def activate(self, number: int, from_ms: int | None = None) -> Activation:
        """Put a book in force again, from a moment on. Raises UnknownBook."""
        await self.book(number)

        async def change(pointer: BookPointer, now_ms: int) -> Change[Activation]:
            activation = Activation(number, max(now_ms + LEAD_MS, from_ms or 0), now_ms, "activate")
            return Change(pointer.with_schedule(pointer.schedule.plus(activation)), activation)

        return await self._change(change)

    async def rollback(self) -> Schedule:
        """Take back the last activation: see `undo`. Raises NothingToUndo."""

        async def change(pointer: BookPointer, now_ms: int) -> Change[Schedule]:
            schedule = undo(pointer.schedule, now_ms, LEAD_MS)
            if schedule is None:
                raise NothingToUndo("no other price book was in force before")
            return Change(pointer.with_schedule(schedule), schedule)

        return await self._change(change)

    # How

    async def _added(self, draft: Draft, base: Book, new_customers: frozenset[str]) -> Book:
        """See `Draft.added_to`. Plans in use are read only where it matters."""
        in_use: frozenset[str] = frozenset()
        if self._plans_in_use is not None and draft.new_plans(base):
            in_use = frozenset(await self._plans_in_use())
        return draft.added_to(base, new_customers, in_use)

    async def _make_newest(
        self, pointer: BookPointer, draft: Draft, base: Book, now_ms: int
    ) -> Change[Taken]:
        """The prices of the newest configuration, whatever was scheduled; base: the book in force."""
        last = pointer.schedule.activations[-1]
        planned = await self.book(last.number)
        if draft.on(planned) == planned:
            return Change(pointer, taken_as(pointer.schedule, last.number, now_ms))
        pointer = pointer.with_schedule(pointer.schedule.begun(now_ms))
        book = draft.on(base)
        if book == base:
            current = pointer.schedule.activations[-1]
            return Change(pointer, taken_as(pointer.schedule, current.number, now_ms))
        begins = now_ms if adds_only(base, book) else now_ms + LEAD_MS
        return add_book(pointer, book, now_ms, begins, "auto_apply")

    async def _compare(
        self, schedule: Schedule, draft: Draft, in_force: Book, now_ms: int
    ) -> Taken:
        current = schedule.at(now_ms)
        assert current is not None, "there is a book in force"
        changes = price_changes(in_force, draft.on(in_force))
        if not changes:
            return Taken(current.number, "in_force", current.from_ms)
        for coming in schedule.activations:
            if coming.from_ms > now_ms:
                book = await self.book(coming.number)
                if not price_changes(book, draft.on(book)):
                    return Taken(coming.number, "scheduled", coming.from_ms)
        return Taken(current.number, "pending", current.from_ms, changes)

    async def _keep(self, prices: Mapping[str, Price]) -> None:
        """Store each price, permanently."""
        if not prices:
            return
        async with self._client.pipeline(transaction=False) as pipe:
            for version, price in prices.items():
                pipe.hsetnx(self._rates, version, pack_price(price))
            with unavailable():
                await pipe.execute()

    async def _change(self, change: Callable[[BookPointer, int], Awaitable[Change[T]]]) -> T:
        """Change the pointer, and keep a new book, in one step. Starts over after losing a race."""
        for _ in range(_TRIES):
            async with self._client.pipeline(transaction=True) as pipe:
                with unavailable():
                    await pipe.watch(self._pointer)
                    pointer = read_pointer(await pipe.get(self._pointer))
                    now_ms = clock_ms(await pipe.time())
                changed = await change(pointer, now_ms)
                if changed.pointer == pointer:
                    return changed.answer
                pipe.multi()
                if changed.book is not None:
                    pipe.hsetnx(self._books, *changed.book)
                pipe.set(self._pointer, pack_pointer(changed.pointer))
                with unavailable():
                    try:
                        await pipe.execute()
                    except WatchError:
                        continue
                return changed.answer
        raise LedgerUnavailable("others change the price book without end")
