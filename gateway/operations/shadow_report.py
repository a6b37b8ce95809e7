"""What shadow mode has found: what requests would have been charged, and which would have been refused.

Charges are the events of shadow wallets. Refusals are counted by the hour, with the most that they could
have cost. What a customer was short of is read from the wallet's lowest balance: with so much more credit
every charge of the period would have been paid.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import orjson

from gateway.domain.customers import is_shadow, owner_of
from gateway.domain.event_rows import EventRow
from gateway.domain.events import EventKind
from gateway.domain.refusals import HOUR_MS
from gateway.domain.stores import EventStore, RowFilter
from gateway.operations.sheets import Column, Sheet, Value

CHARGES: Final[frozenset[EventKind]] = frozenset({"settle", "expire", "settle_late"})
_WOULD_DENY: Final = "would_deny"
_REPORT_EVERY: Final = 2000


@dataclass(frozen=True, slots=True)
class ShadowRequest:
    """What to report. Times are Unix ms: from `since_ms` on, before `until_ms`."""

    since_ms: int | None = None
    until_ms: int | None = None
    customer_id: str | None = None


@dataclass(slots=True)
class ShadowCustomer:
    """What one customer's requests came to. Amounts in nano-credits.

    would_deny:        requests that would have been refused; they ran and are among `requests`
    denied_nano:       what these were charged
    lowest_nano:       the lowest balance; None where nothing was charged
    credit_limit_nano: of the shadow wallet
    """

    requests: int = 0
    charged_nano: int = 0
    would_deny: int = 0
    denied_nano: int = 0
    lowest_nano: int | None = None
    credit_limit_nano: int = 0

    @property
    def needed_nano(self) -> int:
        """How much more credit would have paid for every charge."""
        return max(0, -(self.lowest_nano or 0) - self.credit_limit_nano)


@dataclass(slots=True)
class ShadowRefusal:
    """Requests of one customer that would have been refused for one reason. estimated_nano: the most
    that they could have cost"""

    count: int = 0
    estimated_nano: int = 0


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """By customer, and by customer and reason (of a limit, with the limit)."""

    customers: dict[str, ShadowCustomer] = field(default_factory=dict)
    refusals: dict[tuple[str, str], ShadowRefusal] = field(default_factory=dict)


def shadow_report(
    store: EventStore, request: ShadowRequest, progress: Callable[[int], None] | None = None
) -> ShadowReport:
    """Sum up a period. progress: called with the number of rows read."""
    found = ShadowReport()
    limits: dict[str, int] = {}
    since_ms = request.since_ms or 0
    # From the beginning: a credit limit is as old as its wallet.
    for row in store.rows(RowFilter(until_ms=request.until_ms, kinds=frozenset({"account"}))):
        if is_shadow(row.customer_id):
            limit = orjson.loads(row.facts).get("credit_limit_nano")
            limits[row.customer_id] = limit if isinstance(limit, int) else 0
    wanted = RowFilter(since_ms, request.until_ms, kinds=CHARGES)
    for count, row in enumerate(store.rows(wanted), 1):
        if is_shadow(row.customer_id) and _is_wanted(row.customer_id, request):
            customer = found.customers.setdefault(owner_of(row.customer_id), ShadowCustomer())
            customer.credit_limit_nano = limits.get(row.customer_id, 0)
            _add(customer, row)
        if progress is not None and count % _REPORT_EVERY == 0:
            progress(count)
    for hour in store.refusals(since_ms // HOUR_MS * HOUR_MS, request.until_ms):
        if is_shadow(hour.customer_id) and _is_wanted(hour.customer_id, request):
            key = owner_of(hour.customer_id), hour.reason
            refusal = found.refusals.setdefault(key, ShadowRefusal())
            refusal.count += hour.count
            refusal.estimated_nano += hour.estimated_nano
    return found


def customers_sheet(made: ShadowReport) -> Sheet:
    """A row for each customer."""
    figures = {
        name: (
            each.requests,
            each.charged_nano,
            each.would_deny,
            each.denied_nano,
            each.needed_nano,
        )
        for name, each in sorted(made.customers.items())
    }
    columns = [
        Column("customer"),
        Column("requests", "count"),
        Column("charged", "credits"),
        Column("would_refuse", "count"),
        Column("charged_of_these", "credits"),
        Column("needed", "credits"),
    ]
    totals = [sum(column) for column in zip(*figures.values(), strict=True)] or [0] * 5
    return Sheet(columns, [[name, *each] for name, each in figures.items()], ["", *totals])


def refusals_sheet(made: ShadowReport) -> Sheet:
    """A row for each customer and reason."""
    rows: list[list[Value]] = [
        [name, reason, each.count, each.estimated_nano]
        for (name, reason), each in sorted(made.refusals.items())
    ]
    columns = [
        Column("customer"),
        Column("reason"),
        Column("would_refuse", "count"),
        Column("estimated", "credits"),
    ]
    found = made.refusals.values()
    totals = sum(each.count for each in found), sum(each.estimated_nano for each in found)
    return Sheet(columns, rows, ["", "", *totals])


def _is_wanted(account_id: str, request: ShadowRequest) -> bool:
    return request.customer_id in (None, owner_of(account_id))


def _add(customer: ShadowCustomer, row: EventRow) -> None:
    began = row.kind != "settle_late"
    customer.requests += began
    customer.charged_nano += row.amount_nano
    lowest = customer.lowest_nano
    customer.lowest_nano = row.balance_nano if lowest is None else min(lowest, row.balance_nano)
    if _WOULD_DENY in (orjson.loads(row.facts).get("flags") or ()):
        customer.would_deny += began
        customer.denied_nano += row.amount_nano
