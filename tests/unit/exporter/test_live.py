"""The last hour by minute, customer and model, in memory."""

import random
from pathlib import Path

import redis.asyncio

from gateway.domain.event_rows import EventRow
from gateway.exporter.live import MINUTE_MS, MINUTES, OTHER, Live, Sold
from gateway.exporter.main import Exporter
from tests.support.bank import Bank
from tests.support.stores import sqlite_sink
from tests.support.until import until
from tests.unit.exporter.sinks.contract import make_row

NOW = 30_000_000 * MINUTE_MS + 17


def sold(seq: int, customer: str, nano: int, **changed: object) -> EventRow:
    facts = {"model": changed.pop("model", "m")}
    said: dict[str, object] = {"cost_nano": 1, "occurred_at_ms": NOW, **changed}
    said |= {"customer_id": customer, "amount_nano": nano, "balance_nano": 1000 - seq}
    return make_row(seq, 0, facts=facts, **said)


def live(**options: int) -> Live:
    return Live(now_ms=lambda: NOW, **options)


def test_customers_and_models_come_by_what_they_spent_and_the_others_are_one() -> None:
    hour = live()
    hour.add([sold(0, "a", 5), sold(1, "b", 50), sold(2, "c", 20, model="n"), sold(3, "a", 7)])
    assert hour.customers(2) == [
        Sold("b", 1, 50, 1, 0, 999),
        Sold("c", 1, 20, 1, 0, 998),
        Sold(OTHER, 2, 12, 2, 0),
    ]
    assert hour.models(5) == [Sold("m", 3, 62, 3, 0), Sold("n", 1, 20, 1, 0)]
    assert hour.customers(0) == [Sold(OTHER, 4, 82, 4, 0)]


def test_a_charge_without_a_known_cost_is_no_margin() -> None:
    hour = live()
    hour.add([sold(0, "a", 50, cost_nano=None), sold(1, "a", 30, cost_nano=20)])
    (customer,) = hour.customers(1)
    assert (customer.charged_nano, customer.uncosted_nano, customer.margin_nano) == (80, 50, 10)


def test_a_late_settle_is_no_further_request_and_grants_sell_nothing() -> None:
    hour = live()
    kinds = ("expire", "settle_late", "grant", "release", "adjust")
    hour.add([sold(seq, "a", 10, kind=kind) for seq, kind in enumerate(kinds)])
    assert hour.customers(1) == [Sold("a", 1, 20, 2, 0, 996)]


def test_minutes_leave_after_an_hour_and_older_ones_never_enter() -> None:
    now = NOW
    hour = Live(now_ms=lambda: now)
    hour.add([sold(0, "a", 5), sold(1, "b", 7, occurred_at_ms=NOW - MINUTES * MINUTE_MS)])
    assert [each.name for each in hour.customers(9)] == ["a"]
    now += (MINUTES - 1) * MINUTE_MS
    assert [each.charged_nano for each in hour.customers(9)] == [5]
    now += MINUTE_MS
    assert hour.customers(9) == []


def test_pairs_and_balances_are_bounded_and_sums_stay_exact() -> None:
    hour = live(pairs_most=10, balances_most=4)
    rows = [sold(seq, f"c{seq}", 3) for seq in range(50)]
    hour.add(rows)
    hour.add(rows[:1])
    everybody = hour.customers(100)
    assert sum(each.charged_nano for each in everybody) == 51 * 3
    assert len(everybody) == 11
    assert everybody[-1] == Sold(OTHER, 40, 120, 40, 0)
    assert {each.name for each in everybody if each.balance_nano is not None} == {"c0"}


def test_any_order_of_batches_gives_the_same_sums() -> None:
    chance = random.Random(5)
    rows = [
        sold(
            seq,
            f"c{chance.randrange(6)}",
            chance.randrange(100),
            occurred_at_ms=NOW - chance.randrange(50 * MINUTE_MS),
        )
        for seq in range(400)
    ]
    one, many = live(), live()
    one.add(rows)
    chance.shuffle(rows)
    for at in range(0, 400, 7):
        many.add(rows[at : at + 7])
    figures = [(each.name, each.charged_nano, each.requests) for each in one.customers(3)]
    assert figures == [(each.name, each.charged_nano, each.requests) for each in many.customers(3)]


async def test_a_settlement_is_seen_when_it_has_been_delivered(
    valkey: redis.asyncio.Redis, tmp_path: Path
) -> None:
    bank = Bank(valkey)
    await bank.open("acme")
    exporter = Exporter(bank.outbox, bank.operator, sqlite_sink(tmp_path / "events.db"))
    exporter.begin()
    await bank.spend("acme", "r1")

    async def seen() -> bool:
        return bool(exporter.live.customers(1))

    await until(seen)
    (customer,) = exporter.live.customers(1)
    assert (customer.name, customer.charged_nano, customer.cost_nano) == ("acme", 59, 7)
    await exporter.drain(5)
