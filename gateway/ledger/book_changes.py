"""What a change of the price book writes, and what its caller learns."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from gateway.domain.pricebook import Activation, Book, BookState, PriceChange, Schedule
from gateway.ledger.codec.price_book import BookPointer, pack_book

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a configuration's prices.

    number:  the book that they are in; where they are pending, the book in force
    from_ms: when that book takes effect, or did
    changes: what differs from the book in force, where they are pending
    """

    number: int
    state: BookState
    from_ms: int
    changes: tuple[PriceChange, ...] = ()


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """What is to be written, and the answer to its caller. book: a new one, number and bytes."""

    pointer: BookPointer
    answer: T
    book: tuple[int, bytes] | None = None


def add_book(
    pointer: BookPointer, book: Book, now_ms: int, begins_ms: int, reason: str
) -> Change[Taken]:
    """Give a new book its number and its place in the schedule."""
    number = pointer.last_number + 1
    schedule = pointer.schedule.plus(Activation(number, begins_ms, now_ms, reason))
    after = BookPointer(pointer.schedule, number).with_schedule(schedule)
    return Change(after, taken_as(schedule, number, now_ms), (number, pack_book(book)))


def taken_as(schedule: Schedule, number: int, now_ms: int) -> Taken:
    """What became of prices that are in a book of this number."""
    current = schedule.at(now_ms)
    of_book = [each for each in schedule.activations if each.number == number]
    ahead = [each for each in of_book if each.from_ms > now_ms]
    begins = ahead[0].from_ms if ahead else of_book[-1].from_ms if of_book else 0
    if current is not None and current.number == number:
        begins = current.from_ms
    return Taken(number, schedule.state_of(number, now_ms), begins)
