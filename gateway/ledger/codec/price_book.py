"""Packs the price book: prices as they were given, books, and the schedule of which is in force.

Values of `{cg}:rates`, `{cg}:books` and `{cg}:book`, all msgpack.
"""

from dataclasses import asdict, astuple, dataclass
from typing import Final

from msgpack import packb, unpackb

from gateway.domain.pricebook import Activation, Book, Customer, Price, Schedule
from gateway.domain.pricing import Rate, Tier

MAX_ACTIVATIONS: Final = 200
"""Activations that are remembered; the oldest ones go first."""


@dataclass(frozen=True, slots=True)
class BookPointer:
    """The schedule, and the number that was given last: the only key of the book that changes."""

    schedule: Schedule
    last_number: int

    def with_schedule(self, schedule: Schedule) -> "BookPointer":
        """With another schedule, of which the newest activations are remembered."""
        newest = Schedule(schedule.activations[-MAX_ACTIVATIONS:])
        return BookPointer(newest, self.last_number)


def read_pointer(raw: bytes | None) -> BookPointer:
    """raw: None while there is no book."""
    if raw is None:
        return BookPointer(Schedule(), 0)
    activations, last_number, *_ = unpackb(raw)
    return BookPointer(Schedule(tuple(Activation(*each) for each in activations)), last_number)


def pack_pointer(pointer: BookPointer) -> bytes:
    """Its activations, each as an array of its fields, and the last number."""
    activations = [astuple(each) for each in pointer.schedule.activations]
    packed: bytes = packb([activations, pointer.last_number])
    return packed


def read_book(raw: bytes) -> Book:
    """The versions of its models', plans' and customers' prices."""
    models, plans, customers = unpackb(raw)
    return Book(
        models, plans, {name: Customer(plan, own) for name, (plan, own) in customers.items()}
    )


def pack_book(book: Book) -> bytes:
    """The versions of its models', plans' and customers' prices."""
    customers = {name: [own.plan, dict(own.prices)] for name, own in book.customers.items()}
    plans = {name: dict(own) for name, own in book.plans.items()}
    packed: bytes = packb([dict(book.models), plans, customers])
    return packed


def read_price(raw: bytes) -> Price:
    """A price as it was given."""
    rates, costs, counter = unpackb(raw)
    return Price(
        tuple(
            Rate(**{**rate, "tiers": tuple(Tier(**tier) for tier in rate["tiers"])})
            for rate in rates
        ),
        costs,
        counter,
    )


def pack_price(price: Price) -> bytes:
    """A price as it was given."""
    rates = [asdict(rate) for rate in price.rates]
    packed: bytes = packb([rates, dict(price.costs_pico), price.counter])
    return packed
