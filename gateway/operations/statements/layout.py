"""A statement's document as titled tables of text: what every form of it, but JSON, shows.

Text from outside (names, reasons, models) is passed on as it is; the forms escape it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from gateway.domain.money import format_amount, parse_amount
from gateway.domain.wallet_history import MOVEMENTS
from gateway.operations.statements.statement import PARTS

Row = tuple[str, ...]
LISTED_MOST: Final = 20
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
_OF_GRANTS: Final[Mapping[str, Row]] = {
    "granted": ("granted",),
    "used": ("used",),
    "expired": ("expired",),
    "other": ("repaid", "refunded", "voided", "adjusted"),
}
"""Columns of the grants, and the movements in each."""


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


def signed_sum(amounts: Iterable[str]) -> str:
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
        (_KINDS[kind], period, f"{len(amounts)} events", signed_sum(amounts))
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
    moved = [
        (title, names)
        for title, names in _OF_GRANTS.items()
        if any(grant[name] != "0" for grant in shown for name in names)
    ]
    rows = tuple(
        (
            grant["name"],
            grant["category"],
            (grant["expires_at"] or "never").partition("T")[0],
            grant["opening"],
            *(signed_sum(grant[name] for name in names) for _, names in moved),
            grant["closing"],
        )
        for grant in shown
    )
    columns = ("grant", "category", "expires", "opening", *(title for title, _ in moved), "closing")
    return Table("Grants", columns, rows, numbers=2 + len(moved))


def _credit(document: Mapping[str, Any]) -> Table | None:
    credit: Mapping[str, Mapping[str, str]] = document["credit"]
    shown = {name: roll for name, roll in credit.items() if any(n != "0" for n in roll.values())}
    return roll_table("Credit by category", shown) if shown else None


def roll_table(title: str, rolls: Mapping[str, Mapping[str, str]]) -> Table:
    """Categories from opening to closing, side by side, and their sum. Movements without any amount are
    left out."""
    movements = [name for name in MOVEMENTS if any(roll[name] != "0" for roll in rolls.values())]
    rows = tuple(
        (
            name,
            *(roll[name] for roll in rolls.values()),
            signed_sum(r[name] for r in rolls.values()),
        )
        for name in ("opening", *movements, "closing")
    )
    return Table(title, ("", *rolls, "total"), rows, numbers=1 + len(rolls), bold=1)


def _balance(document: Mapping[str, Any]) -> Table:
    balance = document["balance"]
    rows = [(_SAID[name], balance[name]) for name in ("opening", *PARTS, "closing")]
    kept = [row for row in rows if row[1] != "0" or row in (rows[0], rows[-1])]
    inside = ("not_effective_yet", "held_of_expired_grants")
    if any(balance[name] != "0" for name in inside):
        kept += [(_SAID[name], balance[name]) for name in inside if balance[name] != "0"]
        kept.append((_SAID["ledger_balance"], balance["ledger_balance"]))
    return Table("Balance", ("", "credits"), tuple(kept), bold=1)
