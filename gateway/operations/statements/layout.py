"""A statement's document as titled tables of text: what every form of it, but JSON, shows.

Text from outside (names, reasons, models) is passed on as it is; the forms escape it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from gateway.domain.money import format_amount, parse_amount
from gateway.domain.wallet_history import MOVEMENTS
from gateway.operations.statements.statement import PARTS

Row = tuple[str, ...]
LISTED_MOST: Final = 40
"""Entries and corrections that are listed one by one; of more, a line for each kind and period."""

_SAID: Final[Mapping[str, str]] = {
    "opening": "Opening balance",
    "granted": "Credit granted",
    "usage": "Usage",
    "refunds": "Refunds",
    "adjustments": "Adjustments",
    "corrections": "Corrections of earlier periods",
    "expired": "Credit expired",
    "voided": "Credit voided",
    "closing": "Closing balance",
    "not_effective_yet": "of this, not effective yet",
    "held_of_expired_grants": "of this, held by requests on expired grants",
    "ledger_balance": "Balance in the ledger",
}
_KINDS: Final[Mapping[str, str]] = {
    "refund": "refund",
    "adjustment": "adjustment",
    "rerate": "re-rate",
    "volume_credit": "volume credit",
    "late_settlement": "late settlement",
    "late_event": "event that arrived late",
}


@dataclass(frozen=True, slots=True)
class Table:
    """One part of a statement. numbers: how many of the last columns are numbers; bold: its last rows"""

    title: str
    columns: Row
    rows: tuple[Row, ...]
    numbers: int = 1
    bold: int = 0


def statement_tables(document: Mapping[str, Any]) -> list[Table]:
    """The parts that have something to show, in the order of an invoice."""
    return [
        made
        for made in (
            _subscription(document),
            _usage(document),
            _entries("Refunds and adjustments", document["entries"]),
            _entries("Corrections of earlier periods", document["corrections"]),
            _grants(document),
            _credit(document),
            _balance(document),
        )
        if made is not None
    ]


def headline(document: Mapping[str, Any]) -> str:
    """The statement's name: whose, and from when to when."""
    begins, ends = (str(document[name]).partition("T")[0] for name in ("from", "until"))
    return f"{document['customer_id']}, {document['period']} ({begins} to {ends}, UTC)"


def signed_sum(amounts: Iterator[str]) -> str:
    """The sum of decimal amounts."""
    return format_amount(sum(parse_amount(amount, signed=True) for amount in amounts))


def _subscription(document: Mapping[str, Any]) -> Table | None:
    subscription = document["subscription"]
    if not subscription:
        return None
    row = (f"Plan {subscription['plan']}, monthly fee", subscription["fee"], subscription["unit"])
    return Table("Subscription", ("", "amount", "unit"), (row,), numbers=2)


def _usage(document: Mapping[str, Any]) -> Table | None:
    usage = document["usage"]
    if not usage["lines"] and not usage["requests"]:
        return None
    rows: list[Row] = []
    for line in usage["lines"]:
        rows += _line(line)
    for name, said in (
        ("rounding", "rounding up, once per request"),
        ("difference", "charged otherwise than quantities and prices explain"),
    ):
        if Decimal(usage[name]):
            rows.append((said, "", "", "", "", usage[name]))
    rows.append((f"{usage['requests']} requests", "", "", "", "", usage["total"]))
    columns = ("model", "unit", "price", "quantity", "rate", "amount")
    return Table("Usage", columns, tuple(rows), numbers=3, bold=1)


def _line(line: Mapping[str, Any]) -> Iterator[Row]:
    unit = str(line["unit"]).rpartition(".")[2]
    if line["service_tier"] != "default":
        unit = f"{unit} ({line['service_tier']})"
    head = (line["model"], unit, line["price_version"] or "no price kept")
    amount = "" if line["amount"] is None else line["amount"]
    if "tiers" not in line:
        yield (*head, str(line["quantity"]), _rate(line) if line["shape"] else "", amount)
        return
    yield (*head, str(line["quantity"]), f"{line['shape']} per {line['counted_per']}", amount)
    if line["included"]:
        yield ("", "included", "", str(line["included"]), "0", "")
    single = len(line["tiers"]) == 1
    for tier in line["tiers"]:
        if not tier["quantity"]:
            continue
        upper = "overage" if single else f"tier {_upper(tier)}"
        parts = [] if line["shape"] == "flat" else [_rate(tier)]
        parts += [tier["flat"]] if tier["flat"] != "0" else []
        yield ("", upper, "", str(tier["quantity"]), " + ".join(parts), "")


def _upper(tier: Mapping[str, Any]) -> str:
    return "beyond" if tier["up_to"] is None else f"up to {tier['up_to']}"


def _rate(priced: Mapping[str, Any]) -> str:
    if "rate" not in priced:
        return ""
    if priced["per"] == 1:
        return f"{priced['rate']} each"
    return (
        f"{priced['rate']} /M"
        if priced["per"] == 1_000_000
        else f"{priced['rate']} for {priced['per']}"
    )


def _entries(title: str, entries: list[Mapping[str, Any]]) -> Table | None:
    if not entries:
        return None
    total = ("total", "", "", signed_sum(entry["amount"] for entry in entries))
    columns = ("what", "of", "reason", "amount")
    if len(entries) <= LISTED_MOST:
        rows = tuple(
            (
                _KINDS[entry["kind"]],
                " ".join(
                    filter(None, (entry.get("period"), entry["corrects"] or entry["event_id"]))
                ),
                entry["reason"] or "",
                entry["amount"],
            )
            for entry in entries
        )
        return Table(title, columns, (*rows, total), bold=1)
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in entries:
        grouped[entry.get("period", ""), entry["kind"]].append(entry["amount"])
    sums = tuple(
        (_KINDS[kind], period, f"{len(amounts)} events", signed_sum(iter(amounts)))
        for (period, kind), amounts in sorted(grouped.items())
    )
    return Table(title, columns, (*sums, total), bold=1)


def _grants(document: Mapping[str, Any]) -> Table | None:
    shown = [
        grant
        for grant in document["grants"]
        if any(grant[name] != "0" for name in ("opening", "closing", *MOVEMENTS))
    ]
    if not shown:
        return None
    moved = [name for name in MOVEMENTS if any(grant[name] != "0" for grant in shown)]
    columns = ("grant", "category", "expires", "opening", *moved, "closing")
    rows = tuple(
        (
            grant["name"],
            grant["category"],
            (grant["expires_at"] or "never").partition("T")[0],
            *(grant[name] for name in ("opening", *moved, "closing")),
        )
        for grant in shown
    )
    return Table("Grants", columns, rows, numbers=2 + len(moved))


def _credit(document: Mapping[str, Any]) -> Table | None:
    credit: Mapping[str, Mapping[str, str]] = document["credit"]
    names = ("opening", *MOVEMENTS, "closing")
    shown = [category for category in credit if any(credit[category][n] != "0" for n in names)]
    if not shown:
        return None
    moved = [name for name in MOVEMENTS if any(credit[each][name] != "0" for each in shown)]
    kept = ("opening", *moved, "closing")
    rows = [(each, *(credit[each][name] for name in kept)) for each in shown]
    rows.append(("total", *(signed_sum(credit[each][name] for each in shown) for name in kept)))
    return Table("Credit by category", ("category", *kept), tuple(rows), len(kept), bold=1)


def _balance(document: Mapping[str, Any]) -> Table:
    balance = document["balance"]
    rows = [(_SAID[name], balance[name]) for name in ("opening", *PARTS, "closing")]
    kept = [row for row in rows if row[1] != "0" or row in (rows[0], rows[-1])]
    inside = ("not_effective_yet", "held_of_expired_grants")
    if any(balance[name] != "0" for name in inside):
        kept += [(_SAID[name], balance[name]) for name in inside if balance[name] != "0"]
        kept.append((_SAID["ledger_balance"], balance["ledger_balance"]))
    return Table("Balance", ("", "credits"), tuple(kept), bold=1)
