"""The price book in the ledger: what comes into force, when, and what does not come back."""

import asyncio

import pytest
from msgpack import packb, unpackb
from redis.asyncio import Redis

from gateway.domain.pricebook import Book, Customer, Draft, Price, price_changes
from gateway.domain.pricing import Rate, Tier, per_unit
from gateway.ledger import pricebook
from gateway.ledger.pricebook import LEAD_MS, NothingToUndo, PriceBooks, UnknownBook

SHORT_LEAD_MS = 50


@pytest.fixture
def short_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put in force begins soon."""
    monkeypatch.setattr(pricebook, "LEAD_MS", SHORT_LEAD_MS)


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
    assert (taken.number, taken.state) == (1, "in_force")
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
    taken = await books.apply(draft({"m": flat_price(4)}))
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


async def test_a_price_that_somebody_pays_changes_by_apply_alone(valkey: Redis) -> None:
    books = PriceBooks(valkey)
    older, dearer = draft({"m": flat_price(3)}), draft({"m": flat_price(300)})
    await books.take(older)
    before = await books.schedule()
    for _ in range(2):
        taken = await books.take(dearer)
        assert (taken.number, taken.state) == (1, "pending")
    (change,) = taken.changes
    assert (change.model, change.plan, change.customer_id) == ("m", None, None)
    assert (change.before, change.after) == (
        flat_price(3).table().price_version,
        flat_price(300).table().price_version,
    )
    assert (await books.schedule())[0] == before[0]
    assert (await books.take(older)).state == "in_force", "the edit was undone"
    applied = await books.apply(dearer)
    assert applied.state == "scheduled"
    assert (await books.take(dearer)).state == "scheduled"


async def test_a_gate_with_older_prices_does_not_bring_them_back(
    valkey: Redis, short_lead: None
) -> None:
    books = PriceBooks(valkey)
    older = draft({"m": flat_price(3)})
    await books.take(older)
    await books.apply(draft({"m": flat_price(4)}))
    await asyncio.sleep(SHORT_LEAD_MS / 1000 + 0.05)
    before = await books.schedule()
    assert (await books.take(older)).state == "pending"
    assert (await books.schedule())[0] == before[0]


@pytest.mark.parametrize("wait", [False, True], ids=["before it begins", "after it has begun"])
async def test_with_auto_apply_the_newest_file_wins_and_so_does_its_undoing(
    valkey: Redis, short_lead: None, *, wait: bool
) -> None:
    books = PriceBooks(valkey)
    older, dearer = draft({"m": flat_price(3)}), draft({"m": flat_price(300)})
    await books.take(older, auto_apply=True)
    taken = await books.take(dearer, auto_apply=True)
    assert taken.state == "scheduled"
    assert await books.take(dearer, auto_apply=True) == taken, "the same file again is no change"
    if wait:
        await asyncio.sleep(SHORT_LEAD_MS / 1000 + 0.05)
    await books.take(older, auto_apply=True)
    schedule, now_ms = await books.schedule()
    current = schedule.at(now_ms + SHORT_LEAD_MS)
    assert current is not None
    book = await books.book(current.number)
    assert book.models["m"] == flat_price(3).table().price_version
    assert schedule.next(now_ms + SHORT_LEAD_MS) is None


async def test_an_addition_is_taken_while_a_change_beside_it_is_pending(valkey: Redis) -> None:
    books = PriceBooks(valkey)
    await books.take(draft({"m": flat_price(3)}))
    taken = await books.take(draft({"m": flat_price(4), "n": flat_price(9, "n")}))
    assert (taken.number, taken.state) == (2, "pending")
    assert [change.model for change in taken.changes] == ["m"]
    book = await books.book(2)
    assert book.models == {
        "m": flat_price(3).table().price_version,
        "n": flat_price(9, "n").table().price_version,
    }


async def test_a_new_customers_own_price_is_no_change_and_an_old_ones_is(valkey: Redis) -> None:
    books = PriceBooks(valkey)
    await books.take(draft({"m": flat_price(3)}, acme={}))
    with_own = draft({"m": flat_price(3)}, acme={"m": flat_price(2)}, new={"m": flat_price(1)})
    taken = await books.take(with_own, new_customers=frozenset({"new"}))
    assert [change.customer_id for change in taken.changes] == ["acme"]
    book = await books.book(taken.number)
    assert book.version_for("m", "new") == flat_price(1).table().price_version
    assert book.version_for("m", "acme") == flat_price(3).table().price_version


def test_a_new_model_gives_nobody_the_plan_that_is_still_pending() -> None:
    base = Book({"m": "p_old"}, {"discount": {"m": "p_cheap"}}, {})
    wanted = Book(
        {"m": "p_old", "n": "p_new"},
        {"discount": {"m": "p_cheap", "n": "p_new_cheap"}},
        {"acme": Customer("discount")},
    )
    moved = Draft(wanted, frozenset({"discount"}), frozenset({"acme"}), {})
    served = moved.under(base)
    assert served.version_for("m", "acme") == "p_old", "its plan is pending"
    assert served.version_for("n", "acme") == "p_new_cheap"
    changes = price_changes(served, moved.on(served))
    assert [(c.model, c.customer_id, c.after) for c in changes] == [("m", "acme", "p_cheap")]


async def test_a_book_of_an_earlier_release_is_read(valkey: Redis) -> None:
    books = PriceBooks(valkey)
    await books.take(draft({"m": flat_price(3)}))
    activations, number = unpackb(await valkey.get("{cg}:book"))
    await valkey.set("{cg}:book", packb([activations, number, {"digest": 1}]))
    assert (await books.take(draft({"m": flat_price(3)}))).number == 1


async def test_what_a_configuration_does_not_know_keeps_its_price(valkey: Redis) -> None:
    books = PriceBooks(valkey)
    dear = {"m": flat_price(2)}
    await books.take(
        draft({"m": flat_price(3), "old": flat_price(5, "old")}, acme=dear, other=dear)
    )
    taken = await books.apply(draft({"m": flat_price(3)}, acme={}))
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
