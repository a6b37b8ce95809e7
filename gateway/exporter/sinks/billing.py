"""What billing systems are sent of an event: which events, which quantities, under which names.

Invariants: an item's id and time come from the event alone, so they are the same at every attempt. A quantity
is sent once: a late settle corrects the amount of its expiry, while its quantities repeat what the expiry has
sent and are left out.
"""

import datetime as dt
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.domain.customers import is_shadow
from gateway.domain.event_rows import EventRow
from gateway.domain.money import format_amount

BILLED_KINDS: Final = frozenset({"settle", "expire", "settle_late"})
"""Kinds that charge: their amounts sum up to what a customer's requests cost."""

AMOUNT: Final = "amount"
"""The charge as a unit among others, in decimal credits."""

_COLUMNS: Final = frozenset(EventRow._fields) - {"usage", "allocations", "facts"}
_DERIVED: Final = frozenset(("id", "time", "unix_s", "amount", "cost", "unit", "quantity"))
_PREFIXES: Final = ("tags.", "usage.", "facts.")
_FIELD: Final = re.compile(r"\{([^{}]*)\}")


class MissingValue(Exception):
    """A template names something that this event does not have."""


@dataclass(frozen=True, slots=True)
class Item:
    """The part of an event that is sent: everything, or one unit. usage: quantities that are new"""

    row: EventRow
    facts: Mapping[str, Any]
    usage: Mapping[str, int]
    unit: str | None = None

    @property
    def id(self) -> str:
        """The same at every attempt."""
        return self.row.event_id if self.unit is None else f"{self.row.event_id}:{self.unit}"

    @property
    def amount(self) -> str:
        """The charge in decimal credits; of a late settle the difference, which may be negative."""
        return format_amount(self.row.amount_nano)

    @property
    def marked(self) -> bool:
        """Whether it is the event that tries a sink out."""
        return self.facts.get("test") is True

    @property
    def quantity(self) -> int | str | None:
        """Of the unit."""
        if self.unit is None:
            return None
        return self.amount if self.unit == AMOUNT else self.usage.get(self.unit, 0)

    @property
    def time(self) -> str:
        """When the balance moved, RFC 3339."""
        moment = dt.datetime.fromtimestamp(self.row.occurred_at_ms / 1000, dt.UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    @property
    def unix_s(self) -> str:
        """When the balance moved, in Unix seconds with three decimals."""
        seconds, ms = divmod(self.row.occurred_at_ms, 1000)
        return f"{seconds}.{ms:03d}"

    @property
    def cost(self) -> str | None:
        """What the provider bills the operator, in decimal credits."""
        return None if self.row.cost_nano is None else format_amount(self.row.cost_nano)

    def value(self, name: str) -> Any:
        """What a template's field stands for; None if the event does not have it."""
        prefix, dot, rest = name.partition(".")
        if dot:
            if prefix == "tags":
                return (self.facts.get("tags") or {}).get(rest)
            return self.usage.get(rest, 0) if prefix == "usage" else self.facts.get(rest)
        return getattr(self.row if name in _COLUMNS else self, name)


class Template:
    """Text with fields in braces: `{customer_id}`, `{tags.team}`, `{usage.input}`, `{unit}`, ….

    Raises ValueError for a field that does not exist.
    """

    def __init__(self, text: str) -> None:
        self._literals = _FIELD.split(text)[::2]
        self.fields = _FIELD.findall(text)
        for name in self.fields:
            if name not in _COLUMNS | _DERIVED and not name.startswith(_PREFIXES):
                raise ValueError(f"there is no field {{{name}}}")
        if any("{" in part or "}" in part for part in self._literals):
            raise ValueError("a brace is not closed")

    def text(self, item: Item) -> str:
        """Fill in the fields. Raises MissingValue."""
        filled = [self._literals[0]]
        for name, literal in zip(self.fields, self._literals[1:], strict=True):
            filled += str(self._value(item, name)), literal
        return "".join(filled)

    def value(self, item: Item) -> Any:
        """The same; a template that is one field gives the value itself, a number for example."""
        if len(self.fields) == 1 and not any(self._literals):
            return self._value(item, self.fields[0])
        return self.text(item)

    @staticmethod
    def _value(item: Item, name: str) -> Any:
        value = item.value(name)
        if (value is None or value == "") and item.marked:
            return item.row.customer_id
        if value is None or value == "":
            raise MissingValue(f"the event has no value for {{{name}}}")
        return value


def billed(
    rows: Iterable[EventRow], kinds: Collection[str], *, test_keys: bool
) -> Iterator[EventRow]:
    """The rows that are billed: of these kinds; those of test keys only if asked, or if marked; none of a
    shadow wallet, which nobody pays for."""
    for row in rows:
        if row.kind not in kinds or is_shadow(row.customer_id):
            continue
        if test_keys or row.livemode is not False or is_marked(row):
            yield row


def is_marked(row: EventRow) -> bool:
    """Whether this is the event of no charge that tries a sink out: its facts have `test: true`."""
    return row.amount_nano == 0 and orjson.loads(row.facts).get("test") is True


def item_of(row: EventRow) -> Item:
    """All that is sent of an event."""
    usage = {} if row.kind == "settle_late" else orjson.loads(row.usage)
    return Item(row, orjson.loads(row.facts), usage)


def by_unit(item: Item, units: Sequence[str]) -> list[Item]:
    """One item for each of these units that the event has; a marked event has each of them.

    units: empty for all, the amount too
    """
    return [
        Item(item.row, item.facts, item.usage, unit)
        for unit in units or (*item.usage, AMOUNT)
        if item.marked or (item.row.amount_nano if unit == AMOUNT else item.usage.get(unit, 0))
    ]


def properties(item: Item) -> dict[str, Any]:
    """What to aggregate and group by: quantities under their units' names, amount and cost as decimal
    strings, and labels. An item of one unit has its quantity instead, so that nothing is summed twice."""
    row = item.row
    found: dict[str, Any]
    if item.unit is None:
        found = {**item.usage, "amount": item.amount, "cost": item.cost}
    else:
        found = {"unit": item.unit, "quantity": item.quantity}
    labels = ("kind", "model", "route", "upstream", "project_id", "key_id", "price_version")
    found |= {name: getattr(row, name) for name in labels}
    found["service_tier"] = item.facts.get("service_tier")
    tags = item.facts.get("tags") or {}
    found |= {f"tag_{name}": tags[name] for name in tags}
    return {name: value for name, value in found.items() if value is not None}
