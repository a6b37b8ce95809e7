"""What statements and the roll-forward must say, from the raw rows of the store and plain fractions.

It shares no code with the product: months, shapes of prices and the meaning of events are written down here a
second time.
"""

import calendar
import datetime as dt
import json
import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

Event = dict[str, Any]
TAKES = ("settle", "expire", "settle_late", "expire_grant", "void")
USES = ("settle", "expire", "settle_late")
CATEGORIES = ("paid", "promotional", "allowance", "adjustment", "overdraft")
DAY_MS = 86_400_000


def read(path: Path) -> list[Event]:
    """Every event, in the order of the ledger's shards."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM events ORDER BY shard, epoch, seq").fetchall()
    return [
        {
            **dict(row),
            **{name: json.loads(row[name]) for name in ("usage", "allocations", "facts")},
            "signed": row["amount_nano"] * (-1 if row["kind"] in TAKES else 1),
        }
        for row in rows
        if row["kind"] in (*TAKES, "grant", "adjust", "allowance")
    ]


def month(label: str, day: int) -> tuple[int, int]:
    """From and until, Unix ms."""
    year, number = map(int, label.split("-"))
    following = (year + number // 12, number % 12 + 1)
    return _begin(year, number, day), _begin(*following, day)


def _begin(year: int, number: int, day: int) -> int:
    day = min(day, calendar.monthrange(year, number)[1])
    return int(dt.datetime(year, number, day, tzinfo=dt.UTC).timestamp()) * 1000


def month_of(at_ms: int, day: int) -> str:
    """The label of the month that a moment lies in."""
    date = dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC)
    label = f"{date.year}-{date.month:02d}"
    if at_ms >= month(label, day)[0]:
        return label
    before = date.replace(day=1) - dt.timedelta(days=1)
    return f"{before.year}-{before.month:02d}"


# Prices: C(x) of a class's units in its period, in nano-credits


@dataclass
class Shape:
    kind: str
    tiers: list[tuple[int | None, Fraction, Fraction]]
    included: int = 0
    package: int = 1
    per_request: Fraction = Fraction(0)
    per_period: Fraction = Fraction(0)
    period: str = "month"

    @property
    def plain(self) -> bool:
        counts = self.included or self.per_request or self.per_period
        return self.kind == "per_unit" and not counts

    def total(self, units: int) -> Fraction:
        """What so many units of one period cost."""
        x = max(0, units - self.included)
        if x == 0:
            return Fraction(0)
        return max(self._shaped(x), self.per_period)

    def _shaped(self, x: int) -> Fraction:
        if self.kind == "flat":
            return self.tiers[0][2]
        if self.kind == "package":
            return ceil(Fraction(x, self.package)) * self.tiers[0][1]
        if self.kind == "volume":
            _, rate, flat = next(t for t in self.tiers if t[0] is None or x <= t[0])
            return x * rate + flat
        total, lower = Fraction(0), 0
        for upper, rate, flat in self.tiers:
            if x > lower:
                total += (min(x, upper or x) - lower) * rate + flat
            lower = upper or lower
        return total


def shape_of(unit: str, written: Any) -> Shape:
    """From the configuration's words."""
    per = (
        10**9 if unit == "request" else 10**3
    )  # credits each, or per million tokens, as nano-credits
    if not isinstance(written, dict):
        return Shape("per_unit", [(None, Fraction(written) * per, Fraction(0))])
    if "package" in written:
        tiers: list[tuple[int | None, Fraction, Fraction]] = [
            (None, Fraction(written["price"]) * 10**9, Fraction(0))
        ]
    elif "tiers" in written:
        tiers = [
            (t.get("up_to"), Fraction(t["price"]) * per, Fraction(t.get("flat", 0)) * 10**9)
            for t in written["tiers"]
        ]
    else:
        flat = Fraction(written.get("flat", 0)) * 10**9
        tiers = [(None, Fraction(written.get("price", 0)) * per, flat)]
    return Shape(
        written.get("shape", "per_unit"),
        tiers,
        written.get("included", 0),
        written.get("package", 1),
        Fraction(written.get("minimum_per_request", 0)) * 10**9,
        Fraction(written.get("minimum_per_period", 0)) * 10**9,
        written.get("period", "month"),
    )


# One customer's month


@dataclass
class Month:
    opening: int = 0
    closing: int = 0
    balance: int = 0
    parts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    quantities: dict[tuple[str, str, str], int] = field(default_factory=lambda: defaultdict(int))
    amounts: dict[tuple[str, str, str], Fraction] = field(
        default_factory=lambda: defaultdict(Fraction)
    )
    """By model, unit and price version, in nano-credits."""
    corrections: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    """By month and event id."""
    roll: dict[str, dict[str, int]] = field(default_factory=dict)
    requests: int = 0
    charged: int = 0


def statement(events: list[Event], customer: str, label: str, day: int, prices: Any) -> Month:
    """prices: version → class → Shape"""
    start, end = month(label, day)
    own = [event for event in events if event["customer_id"] == customer]
    by_id = {event["event_id"]: event for event in own}
    found = Month()
    inside = [e for e in own if start <= e["occurred_at_ms"] < end]
    found.opening = sum(e["signed"] for e in own if e["occurred_at_ms"] < start)
    found.closing = found.opening + sum(e["signed"] for e in inside)
    before = [e for e in own if e["occurred_at_ms"] < end]
    found.balance = before[-1]["balance_nano"]
    uses: list[Event] = []
    for event in inside:
        kind, facts = event["kind"], event["facts"]
        corrected = by_id.get(facts.get("corrects") or "", event)
        volume = facts.get("reason") == "volume"
        if corrected["kind"] == "settle_late":
            corrected = by_id[corrected["event_id"].replace(":settled_late", ":expired")]
        if corrected["occurred_at_ms"] < start:
            of = month_of(corrected["occurred_at_ms"], day)
            found.corrections[of, event["event_id"]] += event["signed"]
            found.parts["corrections"] += event["signed"]
        elif kind in USES or volume:
            found.parts["usage"] += event["signed"]
            found.charged -= event["signed"]
            uses += [event] if kind in USES else []
            found.requests += kind in ("settle", "expire")
        else:
            part = {"grant": "granted", "expire_grant": "expired", "void": "voided"}.get(kind)
            refund = facts.get("operation") == "refund"
            found.parts[part or ("refunds" if refund else "adjustments")] += event["signed"]
    _lines(found, own, uses, start, day, prices)
    found.roll = roll_forward(own, start, end)
    return found


def _lines(
    found: Month, own: list[Event], uses: list[Event], start: int, day: int, prices: Any
) -> None:
    """Quantities and amounts by class; what is counted over a period in the order of the events."""
    replaced = {
        event["event_id"].replace(":settled_late", ":expired"): event
        for event in own
        if event["kind"] == "settle_late"
    }
    counted: dict[tuple[str, str, int], list[tuple[bool, str, int]]] = defaultdict(list)
    inside = {event["event_id"] for event in uses}
    for event in own:
        if event["kind"] not in ("settle", "expire"):
            continue
        late = replaced.get(event["event_id"])
        counts = event["event_id"] in inside
        if not counts and event["occurred_at_ms"] >= start:
            continue
        # The usage of the late settle, if it is on the same side of the statement's beginning.
        same = late is not None and (late["occurred_at_ms"] < start) == (not counts)
        same = same and (not counts or late["event_id"] in inside)  # type: ignore[index]
        usage = late["usage"] if same and late else event["usage"]
        model, version = event["facts"]["model"], event["price_version"]
        reserved_ms = int(event["event_id"][:12], 16)
        for unit, quantity in usage.items():
            shape = prices[version][unit]
            if counts:
                found.quantities[model, unit, version] += quantity
            if shape.plain:
                if counts:
                    found.amounts[model, unit, version] += quantity * shape.tiers[0][1]
                continue
            window = (
                reserved_ms - reserved_ms % DAY_MS
                if shape.period == "day"
                else month(month_of(reserved_ms, day), day)[0]
            )
            counted[model, unit, window].append((counts, version, quantity))
    for (model, unit, _), some in counted.items():
        x = 0
        exact: dict[str, Fraction] = defaultdict(Fraction)
        for counts, version, quantity in some:
            shape = prices[version][unit]
            charge = shape.total(x + quantity) - shape.total(x)
            if shape.per_request and x + quantity > shape.included and quantity:
                charge = Fraction(ceil(max(charge, shape.per_request)))
            x += quantity
            if counts:
                exact[version] += charge
        for version, amount in exact.items():
            found.amounts[model, unit, version] += ceil(amount)


def roll_forward(own: list[Event], start: int, end: int) -> dict[str, dict[str, int]]:
    """Category → opening, each movement, closing, of these events. One customer's, or everyone's."""
    grants: dict[tuple[str, int], str] = {}
    names: dict[tuple[str, int], str] = {}
    sums: dict[str, dict[str, int]] = {c: defaultdict(int) for c in CATEGORIES}

    def move(event: Event, category: str, movement: str, nano: int) -> None:
        if event["occurred_at_ms"] < start:
            sums[category]["opening"] += nano
        elif event["occurred_at_ms"] < end:
            sums[category][movement] += nano
        if event["occurred_at_ms"] < end:
            sums[category]["closing"] += nano

    for event in own:
        customer, facts, kind = event["customer_id"], event["facts"], event["kind"]
        if kind == "allowance":
            names[customer, zlib.crc32(facts["name"].encode())] = facts["category"]
            continue
        category = facts.get("category") or names.get((customer, facts.get("allowance_id")))
        if kind == "grant":
            assert category is not None
            move(event, category, "granted", event["amount_nano"])
        for no, nano in event["allocations"]:
            if kind == "grant":
                if no:
                    grants[customer, no] = str(category)
                else:
                    move(event, str(category), "repaid", -nano)
                    move(event, "overdraft", "repaid", nano)
                continue
            whose = grants.setdefault((customer, no), "adjustment") if no else "overdraft"
            refund = facts.get("operation") == "refund"
            movement = {"expire_grant": "expired", "void": "voided"}.get(kind)
            if kind == "adjust":
                movement = "refunded" if refund else "adjusted"
            move(event, whose, movement or "used", -nano if kind in TAKES else nano)
    return {name: dict(each) for name, each in sums.items()}


def customers_of(events: list[Event]) -> Iterator[str]:
    yield from sorted({event["customer_id"] for event in events})
