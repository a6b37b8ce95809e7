"""Two generated months of ten customers: statements, roll-forward and re-rate against the oracle."""

from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any

import pytest

from gateway.domain.stores import RowFilter
from gateway.domain.wallet_history import WalletHistory
from gateway.operations.backend import Backend
from gateway.operations.statements.closing import show_statement
from gateway.operations.statements.past_charges import rerate_id
from gateway.operations.statements.reading import in_order
from gateway.operations.statements.rerate import Rerated, RerateRequest, rerate
from gateway.operations.statements.roll_forward import roll_forward, roll_forward_document
from gateway.operations.verify import verify
from tests.support.stores import events_path, sqlite_access
from tests.unit.operations.statements import oracle
from tests.unit.operations.statements.shop import (
    BILLING_DAYS,
    CHANGED,
    CUSTOMERS,
    PRICES,
    Shop,
    at,
)

SEEDS = (1, 2)
MONTHS = ("2025-08", "2025-09", "2025-10")


def shapes(shop: Shop) -> dict[str, dict[str, oracle.Shape]]:
    """The oracle's prices, by the version that events name."""
    found = {}
    for draft, prices in ((shop.old, PRICES), (shop.new, {**PRICES, **CHANGED})):
        for model, written in prices.items():
            found[draft.book.models[model]] = {
                unit.removeprefix("per_"): oracle.shape_of(unit.removeprefix("per_"), each)
                for unit, each in written.items()
            }
    return found


def nano(text: str) -> Fraction:
    return Fraction(Decimal(text)) * 10**9


async def compare(
    backend: Backend, events: list[oracle.Event], customer: str, label: str, prices: Any
) -> None:
    shown = (await show_statement(backend, customer, label)).document
    must = oracle.statement(events, customer, label, BILLING_DAYS[customer], prices)
    balance = shown["balance"]
    assert nano(balance["opening"]) == must.opening
    assert nano(balance["closing"]) == must.closing
    assert nano(balance["ledger_balance"]) == must.balance
    for part in ("granted", "usage", "refunds", "adjustments", "corrections", "expired", "voided"):
        assert nano(balance[part]) == must.parts[part], (
            part,
            shown["entries"],
            shown["corrections"],
            dict(must.parts),
            dict(must.corrections),
        )
    assert {(e["period"], e["event_id"]): nano(e["amount"]) for e in shown["corrections"]} == dict(
        must.corrections
    )
    usage = shown["usage"]
    assert usage["requests"] == must.requests
    assert usage["difference"] == "0"
    assert nano(usage["total"]) == must.charged
    lines = {(e["model"], e["unit"], e["price_version"]): e for e in usage["lines"]}
    assert {name: line["quantity"] for name, line in lines.items()} == {
        name: quantity
        for name, quantity in must.quantities.items()
        if quantity or must.amounts[name]
    }
    for name, line in lines.items():
        assert nano(line["amount"]) == must.amounts[name], (customer, label, line)
        if "tiers" in line:
            assert line["included"] + sum(t["quantity"] for t in line["tiers"]) == line["quantity"]
    assert sum(nano(e["amount"]) for e in usage["lines"]) + nano(usage["rounding"]) == must.charged
    for category, moved in must.roll.items():
        said = {name: nano(amount) for name, amount in shown["credit"][category].items()}
        assert {k: v for k, v in said.items() if v} == {k: v for k, v in moved.items() if v}


@pytest.mark.slow
@pytest.mark.parametrize("new_shop", SEEDS, indirect=True)
async def test_every_statement_is_what_the_raw_events_say(shop: Shop) -> None:
    events, prices = oracle.read(events_path(shop.settings)), shapes(shop)
    kinds = {event["kind"] for event in events}
    assert kinds >= {"settle", "expire", "settle_late", "expire_grant", "void", "adjust", "grant"}
    async with shop.backend() as backend:
        assert (await verify(backend.audit, backend.outbox, backend.store)).drifts == ()
        for customer in CUSTOMERS:
            for label in MONTHS:
                await compare(backend, events, customer, label, prices)


@pytest.mark.slow
async def test_the_months_have_every_case_and_every_balance_is_rebuilt(shop: Shop) -> None:
    path = events_path(shop.settings)
    events = oracle.read(path)
    uses = [event for event in events if event["kind"] in oracle.USES]
    assert sum(event["facts"].get("reason") == "volume" for event in events) > 10
    assert sum(event["facts"].get("operation") == "refund" for event in events) > 20
    assert sum(no == 0 for event in uses for no, _ in event["allocations"]) > 10, "overdraft"
    assert sum(event["amount_nano"] < 0 for event in uses) > 10, "late settles that give back"
    histories: dict[str, WalletHistory] = defaultdict(WalletHistory)
    waiting = held = 0
    with sqlite_access(path).open() as store:
        for row in in_order(store, RowFilter()):
            history = histories[row.customer_id]
            moved = history.apply(row)
            assert history.difference(row, moved) is None
            grants = history.grants.values()
            waiting += any(g.effective_at_ms > row.occurred_at_ms for g in grants)
            ended = [g for g in grants if 0 < g.expires_at_ms <= row.occurred_at_ms]
            held += any(g.remaining_nano for g in ended)
    assert waiting > 10, "grants that were not effective yet"
    assert held > 10, "grants that expired with something held"


@pytest.mark.slow
async def test_the_roll_forward_is_what_the_raw_events_say_and_chains(shop: Shop) -> None:
    events = oracle.read(events_path(shop.settings))
    async with shop.backend() as backend:
        before: dict[str, Any] = {}
        for label in (*MONTHS, "2025-11"):
            said = roll_forward_document(roll_forward(backend.store, label))
            must = oracle.roll_forward(events, *oracle.month(label, 1))
            for category, moved in must.items():
                amounts = {k: nano(v) for k, v in said["categories"][category].items()}
                assert {k: v for k, v in amounts.items() if v} == {
                    k: v for k, v in moved.items() if v
                }
            if before:
                assert {c: e["opening"] for c, e in said["categories"].items()} == before
            before = {c: each["closing"] for c, each in said["categories"].items()}
        wallets = await backend.accounts.wallets.read(CUSTOMERS)
    left = sum(grant.remaining_nano for wallet in wallets.values() for grant in wallet.grants)
    owed = sum(wallet.overdraft_nano for wallet in wallets.values())
    assert nano(said["total"]["closing"]) == left - owed


@pytest.mark.slow
async def test_a_rerate_adjusts_each_event_once_and_is_a_correction_of_its_month(
    shop: Shop,
) -> None:
    version = shop.new.book.models["plain"]
    rates = shapes(shop)[version]
    path = events_path(shop.settings)
    before = oracle.read(path)

    async def run(apply: bool) -> list[Rerated]:
        took: list[Rerated] = []
        async with shop.backend() as backend:
            wanted = RerateRequest("plain", version, at(9, 1), at(10, 1), apply=apply)
            await rerate(backend, wanted, took.append)
        return took

    must: dict[str, int] = {}
    charges = [e for e in before if e["kind"] in oracle.USES and e["facts"]["model"] == "plain"]
    for event in charges:
        rid = event["event_id"].rpartition(":")[0]
        mine = [e for e in charges if e["event_id"].startswith(rid)]
        if event is not mine[-1] or not at(9, 1) <= int(rid[:12], 16) < at(10, 1):
            continue
        paid = sum(e["amount_nano"] for e in mine)
        would = ceil(sum(q * rates[unit].tiers[0][1] for unit, q in event["usage"].items()))
        refunded = sum(
            e["amount_nano"]
            for e in before
            if str(e["facts"].get("corrects")).startswith(rid) and e["kind"] == "adjust"
        )
        change = paid - would
        must[event["event_id"]] = min(change, max(0, paid - refunded)) if change > 0 else change
    planned = await run(apply=False)
    assert {each.event_id: each.change_nano for each in planned} == must
    assert {each.status for each in planned} <= {"planned", "same"}
    assert any(change > 0 for change in must.values())
    assert any(change < 0 for change in must.values())
    await shop.export()
    assert oracle.read(path) == before, "a dry run wrote something"
    applied = await run(apply=True)
    assert {each.event_id: each.change_nano for each in applied} == must
    # Before and after its events have reached the store, a second run changes nothing.
    assert {each.status for each in await run(apply=True)} <= {"done", "same"}
    await shop.export()
    assert {(each.status, each.change_nano) for each in await run(apply=True)} <= {
        ("done", 0),
        ("same", 0),
    }
    await shop.export()
    after = oracle.read(path)
    known = {event["event_id"] for event in before}
    new = [event for event in after if event["event_id"] not in known]
    assert {event["kind"] for event in new} <= {"adjust", "expire_grant", "grant"}  # time went on
    made = {e["event_id"]: e["amount_nano"] for e in new if e["kind"] == "adjust"}
    assert made == {rerate_id(name, version): n for name, n in must.items() if n}
    async with shop.backend() as backend:
        assert (await verify(backend.audit, backend.outbox, backend.store)).drifts == ()
        now_ms = await backend.accounts.now_ms()
        for customer in CUSTOMERS:
            label = oracle.month_of(now_ms, BILLING_DAYS[customer])
            await compare(backend, after, customer, label, shapes(shop))
            shown = (await show_statement(backend, customer, label)).document
            assert {e["kind"] for e in shown["corrections"]} <= {"rerate", "late_settlement"}
