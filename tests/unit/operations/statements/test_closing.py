"""A closed period stays as it was; what comes for it later is a correction on the next statement."""

import sqlite3
from contextlib import closing
from typing import Any

import orjson
import pytest
import yaml

from gateway.operations.errors import Conflict, NotFound
from gateway.operations.statements import closing as closing_module
from gateway.operations.statements.closing import Closing, close_statements, show_statement
from gateway.operations.statements.document import digest_of
from gateway.operations.statements.roll_forward import roll_forward
from gateway.operations.statements.statement import StatementDiffers
from gateway.settings import load_settings
from tests.support.stores import events_path
from tests.unit.operations.statements.shop import CREDIT, CUSTOMERS, MINUTE_MS, Shop, at

MONTH, NEXT = "2025-09", "2025-10"


@pytest.fixture
async def shop(new_shop: Shop) -> Shop:
    """Every customer has used something in September; it is 2 October."""
    new_shop.now = at(9, 20)
    for name in CUSTOMERS[1:4]:
        await use(new_shop, name, "graduated")
        await use(new_shop, name, "plain")
    new_shop.now = at(10, 2)
    await new_shop.export()
    return new_shop


async def use(shop: Shop, customer: str, model: str) -> None:
    held = await shop.reserve(customer, model)
    assert held is not None
    await shop.settle(held)


async def close(shop: Shop, label: str, *customers: str) -> list[Closing]:
    async with shop.backend() as backend:
        closings = await close_statements(backend, label, customers)
    await shop.export()  # the audit log's entries: the next closing waits until they are delivered
    return closings


async def show(shop: Shop, customer: str, label: str) -> dict[str, Any]:
    async with shop.backend() as backend:
        return (await show_statement(backend, customer, label)).document


async def test_what_is_closed_is_what_was_shown_and_closing_again_changes_nothing(
    shop: Shop,
) -> None:
    shown = await show(shop, "c1", MONTH)
    first = await close(shop, MONTH)
    assert [each.customer_id for each in first] == CUSTOMERS
    assert all(each.problem is None and not each.already for each in first)
    closed = first[1].closed
    assert closed is not None
    assert closed.sha256 == digest_of(closed.document)
    kept = orjson.loads(closed.document)
    assert kept == {**shown, "closed_at": kept["closed_at"]}
    assert kept["last_event"].keys() >= {"shard", "epoch", "seq"}
    again = await close(shop, MONTH, "c1")
    assert [(each.closed, each.already) for each in again] == [(closed, True)]
    assert await show(shop, "c1", MONTH) == kept


async def test_what_arrives_later_is_a_correction_of_the_closed_period(shop: Shop) -> None:
    await close(shop, MONTH, "c1")
    before = await show(shop, "c1", MONTH)
    # The clock of a new primary is behind: these lie in September, behind what was closed.
    shop.now = at(10, 1) - MINUTE_MS
    await use(shop, "c1", "plain")
    await shop.ledger.adjust("c1", "adjust:c1:late", -5, reason="late")
    shop.now = at(10, 3)
    await use(shop, "c1", "plain")
    await shop.export()
    assert await show(shop, "c1", MONTH) == before
    after = await show(shop, "c1", NEXT)
    assert after["balance"]["opening"] == before["balance"]["closing"]
    assert [(e["kind"], e["period"]) for e in after["corrections"]] == [
        ("late_event", MONTH),
        ("late_event", MONTH),
    ]
    assert after["corrections"][1]["amount"] == "-0.000000005"
    assert after["usage"]["requests"] == 1
    assert after["usage"]["difference"] == "0"
    wallet = (await shop.audit.snapshot(shop.accounts["c1"].shard)).wallets["c1"]
    assert after["balance"]["ledger_balance"] == after["balance"]["closing"]
    closing_nano = round(float(after["balance"]["closing"]) * CREDIT)
    assert closing_nano == wallet.balance_nano(shop.now)


async def test_an_open_period_takes_what_its_time_says_and_one_place_ends_it(shop: Shop) -> None:
    """Without a closed statement, too, an event is in one statement and no other."""
    shop.now = at(10, 1) + MINUTE_MS
    await use(shop, "c1", "plain")
    shop.now = at(10, 1) - MINUTE_MS  # the clock was set back after the month had begun
    await use(shop, "c1", "plain")
    shop.now = at(10, 1) + 2 * MINUTE_MS
    await use(shop, "c1", "plain")
    await shop.export()
    first, second = await show(shop, "c1", MONTH), await show(shop, "c1", NEXT)
    assert first["balance"]["closing"] == second["balance"]["opening"]
    assert (first["usage"]["requests"], second["usage"]["requests"]) == (2, 2)
    assert [e["period"] for e in second["corrections"]] == [MONTH]
    async with shop.backend() as backend:
        roll_forward(backend.store, MONTH)
        roll_forward(backend.store, NEXT)


async def test_later_statements_go_on_from_the_closed_one(shop: Shop) -> None:
    shop.now = at(10, 5)
    await use(shop, "c1", "graduated")
    await shop.ledger.grant("c1", "grant:c1:x", CREDIT, category="promotional")
    shop.now = at(11, 2)
    await use(shop, "c1", "plain")
    await shop.export()
    opened = [await show(shop, "c1", label) for label in (NEXT, "2025-11")]
    await close(shop, MONTH, "c1")
    assert [await show(shop, "c1", label) for label in (NEXT, "2025-11")] == opened


@pytest.mark.parametrize(("customer", "day"), [("c1", 15), ("c3", 1)])
async def test_a_changed_billing_day_leaves_no_event_out_and_bills_none_twice(
    shop: Shop, customer: str, day: int
) -> None:
    for month, day_of_month in ((10, 7), (10, 20), (11, 7), (11, 20)):
        shop.now = at(month, day_of_month)
        await use(shop, customer, "plain")
    await shop.export()
    before = await show(shop, customer, MONTH)
    await close(shop, MONTH, customer)
    config = yaml.safe_load((file := shop.settings.files[0]).read_text())
    config["customers"][customer]["billing_day"] = day
    file.write_text(yaml.safe_dump(config))
    shop.settings = load_settings(file)
    after = await show(shop, customer, NEXT)
    assert after["from"] == before["until"]
    assert after["until"] == f"2025-11-{day:02d}T00:00:00.000Z"
    assert after["balance"]["opening"] == before["balance"]["closing"]
    await close(shop, NEXT, customer)
    last = await show(shop, customer, "2025-11")
    assert last["from"] == after["until"]
    requests = [each["usage"]["requests"] for each in (before, after, last)]
    assert requests == ([2, 3, 1] if customer == "c1" else [3, 1, 2])
    assert [each["corrections"] for each in (before, after, last)] == [[], [], []]


async def test_periods_are_closed_in_order_and_when_they_have_ended(shop: Shop) -> None:
    await close(shop, MONTH, "c1")
    (refused,) = await close(shop, "2025-08", "c1")
    assert refused.problem is not None
    assert refused.problem.startswith(
        "2025-09 of c1 is closed, so 2025-08 cannot be closed any more"
    )
    (refused,) = await close(shop, "2999-01", "c1")
    assert refused.problem == "2999-01 of c1 ends at 2999-02-01T00:00:00.000Z"
    assert refused.closed is None
    with pytest.raises(NotFound, match="there is no customer nobody"):
        await close(shop, MONTH, "nobody")


async def test_nothing_is_closed_before_the_store_has_every_event(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing_module, "DELIVERY_WAIT_S", 0.2)
    await use(shop, "c1", "plain")
    with pytest.raises(Conflict, match="has not received all events"):
        await close(shop, MONTH, "c1")
    await shop.export()
    (closed,) = await close(shop, MONTH, "c1")
    assert closed.problem is None


async def test_a_kept_statement_that_was_changed_is_not_shown(shop: Shop) -> None:
    await close(shop, MONTH, "c1")
    with closing(sqlite3.connect(events_path(shop.settings))) as store:
        store.execute("UPDATE statements SET document = replace(document, 'plain', 'other')")
        store.commit()
    with pytest.raises(Conflict, match="was changed in the store after it was closed"):
        await show(shop, "c1", MONTH)
    with pytest.raises(Conflict, match="was changed in the store after it was closed"):
        await show(shop, "c1", NEXT)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM events WHERE customer_id = 'c1' AND kind = 'grant'",
        "UPDATE events SET amount_nano = amount_nano + 1 WHERE customer_id = 'c1' AND kind = 'settle'",
        "UPDATE events SET balance_nano = balance_nano - 1 WHERE customer_id = 'c1'",
    ],
)
async def test_events_that_do_not_add_up_make_no_statement(shop: Shop, damage: str) -> None:
    with closing(sqlite3.connect(events_path(shop.settings))) as store:
        store.execute(damage)
        store.commit()
    with pytest.raises(StatementDiffers, match="c1 for 2025-09 would not equal the ledger"):
        await show(shop, "c1", MONTH)
    refused, good = await close(shop, MONTH, "c1", "c2")
    assert refused.problem is not None
    assert good.problem is None
    async with shop.backend() as backend:
        with pytest.raises(StatementDiffers, match="the events of 1 wallets do not add up"):
            roll_forward(backend.store, MONTH)
