"""The price book in the ledger: what comes into force, when, and what does not come back."""

import pytest
from redis.asyncio import Redis

from gateway.domain.pricebook import Book, Customer, Draft, Price
from gateway.domain.pricing import Rate, Tier, per_unit
from gateway.ledger.pricebook import LEAD_MS, NothingToUndo, PriceBooks, UnknownBook


def flat_price(pico: int, counter: str = "m") -> Price:
    return Price((per_unit("input", pico), per_unit("output", pico)), {"input": 1}, counter)


TIERED = Price(
    (Rate("output", "graduated", (Tier(1000, 5_000_000, 7), Tier(None, 1_000_000)), included=10),),
    {},
    "m",
)


def draft(models: dict[str, Price], **customers: dict[str, Price]) -> Draft:
    prices = [*models.values(), *(p for own in customers.values() for p in own.values())]
    book = Book(
        {name: price.table().price_version for name, price in models.items()},
        {},
        {
            name: Customer(None, {m: p.table().price_version for m, p in own.items()})
            for name, own in customers.items()
            if own
        },
    )
    return Draft(
        book,
        frozenset(),
        frozenset(customers),
        {price.table().price_version: price for price in prices},
    )


async def test_the_first_prices_are_in_force_at_once(valkey: Redis) -> None:
    books = PriceBooks(valkey)
    taken = await books.take(draft({"m": flat_price(3)}))
    assert (taken.number, taken.state, taken.new) == (1, "in_force", True)
    number, book = await books.in_force() or (0, Book({}))
    assert number == 1
    tables = await books.tables(book.versions())
    assert tables[book.models["m"]].rates_pico == {"input": 3, "output": 3}
    assert tables[book.models["m"]].costs_pico == {"input": 1}


async def test_a_price_with_tiers_comes_back_as_it_was(valkey: Redis) -> None:
    books = PriceBooks(valkey)
    await books.take(draft({"m": TIERED}))
    version = TIERED.table().price_version
    assert await books.prices([version, "p_unknown"]) == {version: TIERED}
    assert (await books.tables([version]))[version].rows == TIERED.table().rows


async def test_a_changed_price_is_announced_and_the_old_one_stays_in_force_until_then(
    valkey: Redis,
) -> None:
    books = PriceBooks(valkey)
    await books.take(draft({"m": flat_price(3)}))
    taken = await books.take(draft({"m": flat_price(4)}))
    schedule, now_ms = await books.schedule()
    assert taken.state == "scheduled"
    assert now_ms < taken.from_ms <= now_ms + LEAD_MS
    in_force = [schedule.at(moment) for moment in (now_ms, taken.from_ms)]
    assert [each and each.number for each in in_force] == [1, 2]


async def test_a_new_model_is_in_force_at_once(valkey: Redis) -> None:
    books = PriceBooks(valkey)
    await books.take(draft({"m": flat_price(3)}))
    taken = await books.take(draft({"m": flat_price(3), "n": flat_price(9, "n")}))
    assert (taken.number, taken.state) == (2, "in_force")


async def test_a_gate_with_older_prices_does_not_bring_them_back(valkey: Redis) -> None:
    books = PriceBooks(valkey)
    older = draft({"m": flat_price(3)})
    await books.take(older)
    await books.apply(draft({"m": flat_price(4)}), from_ms=1)
    before = await books.schedule()
    taken = await books.take(older)
    assert not taken.new
    assert taken.number == 1
    assert (await books.schedule())[0] == before[0]
    applied = await books.apply(older)
    assert applied.state in ("in_force", "scheduled")


async def test_what_a_configuration_does_not_know_keeps_its_price(valkey: Redis) -> None:
    books = PriceBooks(valkey)
    dear = {"m": flat_price(2)}
    await books.take(
        draft({"m": flat_price(3), "old": flat_price(5, "old")}, acme=dear, other=dear)
    )
    taken = await books.take(draft({"m": flat_price(3)}, acme={}))
    book = await books.book(taken.number)
    assert set(book.models) == {"m", "old"}
    assert set(book.customers) == {"other"}, "acme is known and has no override any more"
    assert book.version_for("m", "other") == flat_price(2).table().price_version
    assert book.version_for("m", "acme") == flat_price(3).table().price_version


async def test_the_same_prices_make_no_new_book(valkey: Redis) -> None:
    books = PriceBooks(valkey)
    for _ in range(3):
        await books.take(draft({"m": flat_price(3)}))
    assert await books.numbers() == [1]


async def test_a_rollback_takes_back_what_has_not_begun_then_goes_to_the_book_before(
    valkey: Redis,
) -> None:
    books = PriceBooks(valkey)
    with pytest.raises(NothingToUndo):
        await books.rollback()
    await books.take(draft({"m": flat_price(3)}))
    with pytest.raises(NothingToUndo):
        await books.rollback()
    await books.take(draft({"m": flat_price(3), "n": flat_price(9, "n")}))
    await books.apply(draft({"m": flat_price(4)}))
    schedule = await books.rollback()
    assert [each.number for each in schedule.activations] == [1, 2]
    schedule = await books.rollback()
    assert [(each.number, each.reason) for each in schedule.activations][-1] == (1, "rollback")


async def test_an_unknown_book_is_not_activated(valkey: Redis) -> None:
    with pytest.raises(UnknownBook):
        await PriceBooks(valkey).activate(7)
