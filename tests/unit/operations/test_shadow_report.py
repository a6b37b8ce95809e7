"""What shadow mode has found, from a real store; and that no other report counts it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.billing_periods import billing_period
from gateway.domain.events import Event
from gateway.domain.refusals import HOUR_MS, NO_ENTRY, RefusalHour
from gateway.domain.stores import EventStore
from gateway.operations.refused_report import refusals_sheet as refused_sheet
from gateway.operations.report import ReportRequest, report
from gateway.operations.shadow_report import (
    ShadowReport,
    ShadowRequest,
    customers_sheet,
    refusals_sheet,
    shadow_report,
)
from gateway.operations.sheets import sheet_document
from gateway.operations.statements.roll_forward import _Roller
from tests.support.stores import sqlite_access, sqlite_sink
from tests.unit.exporter.sinks.contract import make_event, make_row

from .sold import store_events

HOUR = 500_000 * HOUR_MS
LIMIT = 40


def event(seq: int, customer_id: str, amount: int, balance: int, **said: Any) -> Event:
    flags = said.pop("flags", [])
    said.setdefault("occurred_at_ms", HOUR + seq)
    return make_event(
        seq,
        customer_id=customer_id,
        amount_nano=amount,
        balance_nano=balance,
        facts={"request_id": f"r{seq}", "model": "m", "flags": flags},
        **said,
    )


EVENTS = [
    make_event(
        0,
        kind="account",
        event_id="account:acme~shadow:1",
        customer_id="acme~shadow",
        occurred_at_ms=HOUR - 5 * HOUR_MS,
        facts={"credit_limit_nano": LIMIT},
    ),
    event(1, "acme~shadow", 30, 70),
    event(2, "acme~shadow", 120, -50, flags=["would_deny", "insufficient_credits"]),
    event(3, "acme~shadow", 10, -60, flags=["client_gone", "would_deny", "rate_limit"]),
    event(4, "acme", 7, 1000),
    event(5, "zeta~shadow", 5, 3),
    event(6, "zeta~test~shadow", 1, 2),
    event(7, "acme~shadow", 4, -64, occurred_at_ms=HOUR + HOUR_MS),
]
REFUSALS = [
    RefusalHour(HOUR, "acme~shadow", "m", "insufficient_credits", 1, 300),
    RefusalHour(HOUR, "acme~shadow", "m", "rate_limit: key k1 (requests per minute)", 1, 20),
    RefusalHour(HOUR, "acme", "m", "insufficient_credits", 9, 9000),
]


@contextmanager
def a_store(folder: Path) -> Iterator[EventStore]:
    path = folder / "events.db"

    async def fill() -> None:
        await store_events(path, EVENTS)
        sink = sqlite_sink(path)
        await sink.open()
        assert await sink.add_refusals(REFUSALS, NO_ENTRY, "1-1")
        await sink.close()

    asyncio.run(fill())
    with sqlite_access(path).open() as store:
        yield store


def made(folder: Path, customer_id: str | None = None) -> ShadowReport:
    with a_store(folder) as store:
        return shadow_report(store, ShadowRequest(HOUR, HOUR + HOUR_MS, customer_id))


def test_each_customer_with_what_was_missing(tmp_path: Path) -> None:
    document = sheet_document(customers_sheet(made(tmp_path)))
    acme, zeta = document["lines"]
    assert acme == {
        "customer": "acme",
        "requests": 3,
        "charged": "0.00000016",
        "would_refuse": 2,
        "charged_of_these": "0.00000013",
        "needed": "0.00000002",
    }, "it was 60 below, and may be 40"
    assert (zeta["requests"], zeta["charged"], zeta["needed"]) == (2, "0.000000006", "0")
    assert document["total"]["requests"] == 5


def test_refusals_by_reason_with_the_limit(tmp_path: Path) -> None:
    document = sheet_document(refusals_sheet(made(tmp_path)))
    assert [(line["reason"], line["would_refuse"]) for line in document["lines"]] == [
        ("insufficient_credits", 1),
        ("rate_limit: key k1 (requests per minute)", 1),
    ]
    assert document["total"] == {"would_refuse": 2, "estimated": "0.00000032"}


def test_one_customer_alone(tmp_path: Path) -> None:
    found = made(tmp_path, "zeta")
    assert list(found.customers) == ["zeta"]
    assert found.refusals == {}


def test_an_empty_period_has_no_rows(tmp_path: Path) -> None:
    with a_store(tmp_path) as store:
        nothing = shadow_report(store, ShadowRequest(1, 2))
    assert sheet_document(customers_sheet(nothing))["lines"] == []
    assert sheet_document(refusals_sheet(nothing))["lines"] == []


@pytest.mark.parametrize("by", [("customer",), ("model",), ("kind", "day")])
def test_other_reports_leave_shadow_wallets_out_of_lines_and_totals(
    tmp_path: Path, by: tuple[str, ...]
) -> None:
    with a_store(tmp_path) as store:
        total = report(store, ReportRequest(by)).total
        assert (total.requests, total.charged_nano) == (1, 7)
        named = report(store, ReportRequest(by, customer_id="acme~shadow")).total
        assert (named.requests, named.charged_nano) == (4, 164)
        refused = sheet_document(refused_sheet(store, ReportRequest(("reason",))))
        assert refused["total"]["refused"] == 9


def test_the_roll_forward_takes_no_shadow_wallet() -> None:
    roller = _Roller(billing_period("2023-11"))
    roller.take(make_row(0, customer_id="acme~shadow", amount_nano=700))
    assert roller.rolled().customers == 0
