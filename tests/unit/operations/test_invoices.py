"""Existing invoices beside charges: what agrees, what differs, what only one side has."""

import asyncio
import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.events import Event
from gateway.domain.stores import EventStore
from gateway.operations.errors import OperationError
from gateway.operations.invoices import (
    ComparedMode,
    CompareRequest,
    compare_invoices,
    compared_sheet,
    read_invoices,
)
from gateway.operations.sheets import sheet_document
from tests.support.stores import sqlite_access
from tests.unit.exporter.sinks.contract import make_event

from .sold import store_events

CREDIT = 1_000_000_000


def on(text: str) -> int:
    return int(dt.datetime.fromisoformat(f"{text}T00:00:00+00:00").timestamp()) * 1000


def charge(seq: int, customer_id: str, day: str, amount: int, **said: Any) -> Event:
    facts = {"request_id": f"r{seq}", "model": said.pop("model", "m"), **said.pop("facts", {})}
    return make_event(
        seq,
        customer_id=customer_id,
        occurred_at_ms=on(day),
        amount_nano=amount * CREDIT,
        facts=facts,
        **said,
    )


EVENTS = [
    charge(1, "acme~shadow", "2027-01-01", 10),
    charge(2, "acme~shadow", "2027-01-31", 5, model="n"),
    charge(3, "acme~shadow", "2027-02-01", 99),
    charge(4, "acme", "2027-01-05", 3),
    charge(5, "late~shadow", "2027-01-14", 1000),
    charge(6, "late~shadow", "2027-01-15", 7),
    charge(7, "late~shadow", "2027-02-14", 1),
    charge(8, "extra~shadow", "2027-01-20", 2),
    charge(
        9,
        "acme~shadow",
        "2027-01-20",
        1,
        kind="adjust",
        event_id="refund:1",
        facts={"corrects": "r0-1:settled"},
    ),
    charge(10, "acme~shadow", "2027-01-01", 500, kind="adjust", event_id="shadow:s1", facts={}),
]


@contextmanager
def a_store(folder: Path) -> Iterator[EventStore]:
    path = folder / "events.db"
    asyncio.run(store_events(path, EVENTS))
    with sqlite_access(path).open() as store:
        yield store


def compared(folder: Path, text: str, mode: ComparedMode = "shadow") -> list[tuple[Any, ...]]:
    invoices = read_invoices(text.splitlines())
    with a_store(folder) as store:
        days = {"late": 15}
        found = compare_invoices(
            store, CompareRequest(invoices, mode, lambda name: days.get(name, 1))
        )
    return [
        (
            each.customer_id,
            each.model,
            each.status,
            each.invoiced_nano and each.invoiced_nano // CREDIT,
            each.charged_nano and each.charged_nano // CREDIT,
        )
        for each in found
    ]


def test_months_begin_on_the_billing_day_and_corrections_count(tmp_path: Path) -> None:
    text = (
        "customer_id,period,amount\nacme,2027-01,12\nacme,2027-01,2\nlate,2027-01,8\ngone,2027-01,4"
    )
    assert compared(tmp_path, text) == [
        ("acme", "", "matched", 14, 14),
        ("extra", "", "not_invoiced", None, 2),
        ("gone", "", "not_charged", 4, None),
        ("late", "", "matched", 8, 8),
    ]


def test_models_are_compared_where_the_file_has_them(tmp_path: Path) -> None:
    text = "customer_id,period,model,amount\nacme,2027-01,m,9\nacme,2027-01,o,1\n"
    lines = compared(tmp_path, text)
    assert ("acme", "m", "matched", 9, 9) in lines
    assert ("acme", "n", "not_invoiced", None, 5) in lines
    assert ("acme", "o", "not_charged", 1, None) in lines


def test_a_period_of_dates_ends_before_the_second(tmp_path: Path) -> None:
    text = "customer_id,period,amount\nacme,2027-01-31/2027-02-01,5\n"
    assert compared(tmp_path, text) == [("acme", "", "matched", 5, 5)]


def test_live_charges_are_compared_if_asked(tmp_path: Path) -> None:
    text = "customer_id,period,amount\nacme,2027-01,3\n"
    assert compared(tmp_path, text, "enforce") == [("acme", "", "matched", 3, 3)]


def test_the_sheet_has_differences_and_totals(tmp_path: Path) -> None:
    invoices = read_invoices(["customer_id,period,amount", "acme,2027-01,10", "gone,2027-01,2"])
    with a_store(tmp_path) as store:
        found = compare_invoices(store, CompareRequest(invoices, "shadow", lambda _: 1))
    document = sheet_document(compared_sheet(found, by_model=False))
    acme = document["lines"][0]
    assert (acme["difference"], acme["percent"]) == ("4", "40.00")
    assert document["total"]["invoiced"] == "12"
    assert document["total"]["charged"] == str(14 + 2 + 1000 + 7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("customer,period,amount\na,2027-01,1", "no column 'customer_id'"),
        ("customer_id,period,amount\n", "the file has no invoices"),
        ("customer_id,period,amount\na,2027-01,1\na,2027-1,1", "line 3"),
        ("customer_id,period,amount\na,2027-01,1.5e3", "line 2"),
        ("customer_id,period,amount\na,2027-01-02/2027-01-02,1", "is empty"),
        ("customer_id,period,amount\n,2027-01,1", "line 2 has no customer_id"),
        ("customer_id,period,amount\na,2027-01", "line 2 has 2 columns"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(OperationError, match=said):
        read_invoices(text.splitlines())
