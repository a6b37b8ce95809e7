"""Statements as text, CSV and HTML: complete, and harmless whatever names say."""

import csv
import io
from html.parser import HTMLParser
from typing import Any

from gateway.operations.statements.forms import COLUMNS, statement_csv, statement_html
from gateway.operations.statements.layout import LISTED_MOST, statement_tables

NOTHING = dict.fromkeys(
    ("granted", "repaid", "used", "expired", "refunded", "voided", "adjusted"), "0"
)


def document(**changes: Any) -> dict[str, Any]:
    """A statement's document with a line of each kind."""
    return {
        "customer_id": "acme",
        "period": "2027-01",
        "from": "2027-01-15T00:00:00.000Z",
        "until": "2027-02-15T00:00:00.000Z",
        "subscription": {"plan": "pro", "fee": "49", "unit": "USD"},
        "usage": {
            "requests": 2,
            "lines": [
                {
                    "model": "m", "service_tier": "flex", "unit": "flex.output",
                    "price_version": "p_1", "quantity": 7, "shape": "per_unit", "rate": "8",
                    "per": 1_000_000, "amount": "0.000056",
                },
                {
                    "model": "m", "service_tier": "default", "unit": "input",
                    "price_version": "p_1", "quantity": 300, "shape": "graduated",
                    "counted_per": "month", "included": 100, "overage": 200, "amount": "3",
                    "tiers": [
                        {"up_to": 50, "rate": "2", "per": 1_000_000, "flat": "0", "quantity": 50},
                        {"up_to": None, "rate": "1", "per": 1_000_000, "flat": "3", "quantity": 150},
                    ],
                },
                {
                    "model": "gone", "service_tier": "default", "unit": "input",
                    "price_version": None, "quantity": 1, "shape": None, "amount": None,
                },
            ],
            "rounding": "0.0000000001", "difference": "0.5", "total": "3.5000560001",
        },
        "balance": {
            "opening": "10", "granted": "0", "usage": "-3.5", "refunds": "0", "adjustments": "-1",
            "corrections": "0", "expired": "0", "voided": "0", "closing": "5.5",
            "not_effective_yet": "1", "held_of_expired_grants": "0", "ledger_balance": "4.5",
        },
        "credit": {
            "paid": {"opening": "10", **NOTHING, "used": "-3.5", "adjusted": "-1", "closing": "5.5"},
            "overdraft": {"opening": "0", **NOTHING, "closing": "0"},
        },
        "grants": [
            {
                "no": 1, "name": "=cmd|' /C calc'!A0", "category": "paid", "effective_at": None,
                "expires_at": "2027-06-01T00:00:00.000Z", "opening": "10", **NOTHING, "used": "-4.5",
                "voided": "-1", "refunded": "1.25", "closing": "5.5",
            },
            {
                "no": 2, "name": "used up", "category": "paid", "effective_at": None,
                "expires_at": None, "opening": "0", **NOTHING, "closing": "0",
            },
        ],
        "entries": [entry(0)],
        "corrections": [],
        **changes,
    }  # fmt: skip


def entry(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "event_id": f"adjust:acme:{number}",
        "kind": "adjustment",
        "occurred_at": "2027-01-20T00:00:00.000Z",
        "amount": "-1",
        "corrects": None,
        "reason": "<script>alert(1)</script>",
        **changes,
    }


def cells(document: dict[str, Any]) -> list[tuple[str, ...]]:
    return [row for table in statement_tables(document) for row in table.rows]


def test_every_part_of_an_invoice_is_shown() -> None:
    tables = {table.title: table.rows for table in statement_tables(document())}
    assert tables["Subscription"] == (("Plan pro, monthly fee", "49", "USD"),)
    assert tables["Usage"] == (
        ("m", "output (flex)", "p_1", "7", "8 /M", "0.000056"),
        ("m", "input", "p_1", "300", "graduated per month", "3"),
        ("", "included", "", "100", "0", ""),
        ("", "tier up to 50", "", "50", "2 /M", ""),
        ("", "tier beyond", "", "150", "1 /M + 3", ""),
        ("gone", "input", "no price kept", "1", "", ""),
        ("rounding up, once per request", "", "", "", "", "0.0000000001"),
        ("charged otherwise than quantities and prices explain", "", "", "", "", "0.5"),
        ("2 requests", "", "", "", "", "3.5000560001"),
    )
    assert tables["Grants"] == (
        ("=cmd|' /C calc'!A0", "paid", "2027-06-01", "10", "-4.5", "0.25", "5.5"),
    )
    assert tables["Credit by category"] == (
        ("opening", "10", "10"),
        ("used", "-3.5", "-3.5"),
        ("adjusted", "-1", "-1"),
        ("closing", "5.5", "5.5"),
    )
    assert tables["Balance"] == (
        ("Opening balance", "10"),
        ("Usage", "-3.5"),
        ("Adjustments", "-1"),
        ("Closing balance", "5.5"),
        ("of this, not effective yet", "1"),
        ("Balance in the ledger", "4.5"),
    )


def test_parts_with_nothing_in_them_are_left_out() -> None:
    usage = {"requests": 0, "lines": [], "rounding": "0", "difference": "0", "total": "0"}
    none = document(subscription=None, usage=usage, entries=[], grants=[], credit={})
    none["balance"] = dict.fromkeys(none["balance"], "0")
    assert [table.title for table in statement_tables(none)] == ["Balance"]
    assert cells(none) == [("Opening balance", "0"), ("Closing balance", "0")]


def test_many_corrections_are_summed_by_period_and_kind() -> None:
    some = [entry(n, period="2026-12", kind="rerate", amount="0.5") for n in range(LISTED_MOST)]
    late = entry(
        99, period="2026-11", kind="late_settlement", amount="-0.25", corrects="r1:expired"
    )
    assert ("late settlement", "2026-11 r1:expired", "<script>alert(1)</script>", "-0.25") in cells(
        document(corrections=[late])
    )
    summed = cells(document(corrections=[*some, late]))
    assert ("re-rate", "2026-12", f"{LISTED_MOST} events", "10") in summed
    assert ("late settlement", "2026-11", "1 events", "-0.25") in summed
    assert ("total", "", "", "9.75") in summed


def test_csv_has_one_row_for_each_figure_and_runs_no_formula() -> None:
    shown = document(customer_id="=HYPERLINK(1)", corrections=[entry(1, period="2026-12")])
    rows = list(csv.DictReader(io.StringIO(statement_csv(shown))))
    assert list(rows[0]) == list(COLUMNS)
    assert {row["customer_id"] for row in rows} == {"'=HYPERLINK(1)"}
    found = {(row["part"], row["item"], row["detail"]): row for row in rows}
    assert found["usage", "m", "input"]["amount"] == "3"
    assert found["usage_tier", "m", "input"]["quantity"] == "150"
    assert found["balance", "closing", ""]["amount"] == "5.5"
    assert found["balance", "usage", ""]["amount"] == "-3.5"
    assert found["correction", "adjustment", "adjust:acme:1"]["of_period"] == "2026-12"
    assert found["credit", "paid", "used"]["amount"] == "-3.5"
    assert found["subscription", "pro", "USD"]["amount"] == "49"


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.named: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.named += attrs

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_is_self_contained_and_escapes_what_others_wrote() -> None:
    text = statement_html(document(customer_id="<b>&amp;"), "Closed <now>")
    page = Page(text)
    assert page.tags.isdisjoint({"script", "b", "now", "link", "img", "iframe"})
    assert {name for name, _ in page.named}.isdisjoint({"src", "href", "style", "onload"})
    for word in ("<script>alert(1)</script>", "<b>&amp;, 2027-01 (2027-01-15 to", "Closed <now>"):
        assert word in page.words
    assert "@media print" in text
    assert "url(" not in text
    assert "Open: figures may still change." in Page(statement_html(document(), None)).words
