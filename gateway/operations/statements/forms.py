"""A statement as CSV, and as one self-contained HTML page to print."""

import csv
import io
from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from typing import Any, Final

from gateway.operations.sheets import harmless
from gateway.operations.statements.layout import Table, headline, statement_tables

COLUMNS: Final = (
    "customer_id",
    "period",
    "part",
    "item",
    "detail",
    "corrects",
    "of_period",
    "price_version",
    "up_to",
    "quantity",
    "rate",
    "per",
    "amount",
)
"""Columns of the CSV."""


def statement_csv(document: Mapping[str, Any]) -> str:
    """One row for each figure, each with the same columns. What does not apply is empty."""
    written = io.StringIO()
    writer = csv.DictWriter(written, COLUMNS, restval="", lineterminator="\r\n")
    writer.writeheader()
    whose = {"customer_id": document["customer_id"], "period": document["period"]}
    for figure in _figures(document):
        cells = {**whose, **figure}
        writer.writerow({name: harmless(str(value)) for name, value in cells.items() if value})
    return written.getvalue()


def _figures(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if subscription := document["subscription"]:
        fee, unit = subscription["fee"], subscription["unit"]
        yield {"part": "subscription", "item": subscription["plan"], "detail": unit, "amount": fee}
    usage = document["usage"]
    for line in usage["lines"]:
        named = {"item": line["model"], "detail": line["unit"]}
        named["price_version"] = line["price_version"]
        yield {
            **named,
            "part": "usage",
            "quantity": line["quantity"],
            "rate": line.get("rate"),
            "per": line.get("per"),
            "amount": line["amount"],
        }
        for tier in line.get("tiers", ()):
            counted = {name: tier.get(name) for name in ("quantity", "rate", "per")}
            yield {**named, "part": "usage_tier", "up_to": tier["up_to"] or "", **counted}
    for name in ("rounding", "difference"):
        yield {"part": "usage", "item": name, "amount": usage[name]}
    for part, entries in (("entry", "entries"), ("correction", "corrections")):
        for entry in document[entries]:
            yield {
                "part": part,
                "item": entry["kind"],
                "detail": entry["event_id"],
                "corrects": entry["corrects"],
                "of_period": entry.get("period"),
                "amount": entry["amount"],
            }
    for category, amounts in document["credit"].items():
        for name, amount in amounts.items():
            yield {"part": "credit", "item": category, "detail": name, "amount": amount}
    for name, amount in document["balance"].items():
        yield {"part": "balance", "item": name, "amount": amount}


def statement_html(document: Mapping[str, Any], closed: str | None) -> str:
    """One page without references to others. closed: what to say of a closed statement"""
    title = escape(headline(document))
    state = escape(closed or "Open: figures may still change.")
    style = files("gateway.operations.statements").joinpath("page.css").read_text()
    parts = "\n".join(_html_table(table) for table in statement_tables(document))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>Statement: {title}</title><style>{style}</style></head>\n<body>"
        f"<h1>Statement</h1><p>{title}<br>{state}<br>Amounts in credits unless stated.</p>\n"
        f"{parts}\n</body></html>\n"
    )


def _html_table(table: Table) -> str:
    first_number = len(table.columns) - table.numbers

    def cells(row: tuple[str, ...], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if at >= first_number else ''}>{escape(cell)}</{tag}>"
            for at, cell in enumerate(row)
        )

    plain = len(table.rows) - table.bold
    body = "\n".join(
        f"<tr{' class=b' if at >= plain else ''}>{cells(row, 'td')}</tr>"
        for at, row in enumerate(table.rows)
    )
    return (
        f"<h2>{escape(table.title)}</h2>\n<table><thead><tr>{cells(table.columns, 'th')}</tr></thead>"
        f"<tbody>\n{body}\n</tbody></table>"
    )
