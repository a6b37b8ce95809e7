"""What one customer used in a period, summed up by one label: the question, and its answer.

What a record adds counts on its own day, as in `gateway/operations/report.py`: of a late settlement what
it adds to its expiry, of a refund or adjustment what it gave or took. A correction that names the event
it corrects belongs to that event's model, key and project.
"""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from gateway.domain.usage import Usage

UsageGroup = Literal["day", "model", "key", "project"]
USAGE_GROUPS: Final[tuple[UsageGroup, ...]] = get_args(UsageGroup)

_EPOCH: Final = dt.date(1970, 1, 1).toordinal()

Totals = tuple[str, int, int, int]
"""Label, requests, charged and corrected nano-credits."""
Quantity = tuple[str, str, int]
"""Label, unit, quantity."""


@dataclass(frozen=True, slots=True)
class UsageQuestion:
    """Which usage: one customer's, by one label. Unix ms: from `since_ms` on, before `until_ms`."""

    customer_id: str
    since_ms: int
    until_ms: int
    by: UsageGroup


@dataclass(frozen=True, slots=True)
class UsageSum:
    """The usage under one label.

    label:          a day as 2027-01-31, UTC; a model, key or project, "" for records without one
    requests:       that were charged or expired, free ones too; not those that were released
    corrected_nano: what adjustments took; what refunds and adjustments gave is negative
    usage:          quantity by unit, without zeros
    """

    label: str
    requests: int
    charged_nano: int
    corrected_nano: int
    usage: Usage = field(default_factory=dict)


def usage_sums(
    question: UsageQuestion, totals: Iterable[Totals], quantities: Iterable[Quantity]
) -> list[UsageSum]:
    """Join what a store has summed up, in order of the labels. Of a day it gives the number since
    1970-01-01 as the label."""
    found: dict[str, dict[str, int]] = {}
    for label, unit, quantity in quantities:
        if quantity:
            found.setdefault(label, {})[unit] = quantity
    sums = [
        UsageSum(_shown(question.by, label), requests, charged, corrected, found.get(label, {}))
        for label, requests, charged, corrected in totals
    ]
    return sorted(sums, key=lambda each: each.label)


def sums_of_lines(
    question: UsageQuestion, lines: Iterable[tuple[str, str | None, int, int, int]]
) -> list[UsageSum]:
    """Join lines of label, unit, quantity or requests, charged and corrected nano-credits: a line
    without a unit has the totals, any other a quantity."""
    totals: list[Totals] = []
    quantities: list[Quantity] = []
    for label, unit, number, charged, corrected in lines:
        if unit is None:
            totals.append((label, number, charged, corrected))
        else:
            quantities.append((label, unit, number))
    return usage_sums(question, totals, quantities)


def _shown(by: UsageGroup, label: str) -> str:
    if by != "day":
        return label
    return dt.date.fromordinal(_EPOCH + int(label)).isoformat()
