"""`compare`: existing invoices next to what the gate has charged, customer by customer.

An invoice file is CSV with the columns customer_id, period and amount, and model where it is broken
down. A period is a month, `2027-01`, beginning on the customer's billing day, or two dates,
`2027-01-10/2027-02-10`: from the first on, before the second (UTC). Lines of the same customer, period
and model are added up.
"""

import csv
import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

import orjson

from gateway.domain.billing_periods import billing_period
from gateway.domain.customers import is_shadow, owner_of
from gateway.domain.event_rows import EventRow
from gateway.domain.events import EventKind
from gateway.domain.money import MoneyError, parse_amount
from gateway.domain.stores import EventStore, RowFilter
from gateway.ledger.wallet_reader import WalletReader
from gateway.operations.errors import OperationError
from gateway.operations.sheets import Column, Sheet, Value

NEEDED: Final = ("customer_id", "period", "amount")
KINDS: Final[frozenset[EventKind]] = frozenset({"settle", "expire", "settle_late", "adjust"})
_REPORT_EVERY: Final = 2000

ComparedMode = Literal["shadow", "enforce"]
Key = tuple[str, str, str]
"""Customer, period as the file writes it, model; "" where the file has no models."""


@dataclass(frozen=True, slots=True)
class Invoices:
    """A file that was read. amounts_nano: by customer, period and model; by_model: it has models"""

    amounts_nano: Mapping[Key, int]
    by_model: bool


async def billing_days(wallets: WalletReader, invoices: Invoices) -> dict[str, int]:
    """On which day the months of each customer begin who has a wallet. Raises LedgerUnavailable."""
    named = {customer_id for customer_id, _, _ in invoices.amounts_nano}
    found = await wallets.read(sorted(named))
    return {customer_id: wallet.billing_day for customer_id, wallet in found.items()}


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """What to compare. billing_day_of: a customer's billing day, for months"""

    invoices: Invoices
    mode: ComparedMode
    billing_day_of: Callable[[str], int]


@dataclass(frozen=True, slots=True)
class ComparedInvoice:
    """One line. invoiced_nano: None where no invoice has it; charged_nano: None where nothing was
    charged"""

    customer_id: str
    period: str
    model: str
    invoiced_nano: int | None
    charged_nano: int | None

    @property
    def difference_nano(self) -> int:
        """Charged less invoiced."""
        return (self.charged_nano or 0) - (self.invoiced_nano or 0)

    @property
    def status(self) -> str:
        """Whether both sides have the line."""
        if self.invoiced_nano is None:
            return "not_invoiced"
        return "not_charged" if self.charged_nano is None else "matched"


def read_invoices(lines: Iterable[str]) -> Invoices:
    """Read a file. Raises OperationError, with the line, for what is not understood."""
    reader = csv.reader(lines)
    header = [name.strip().lstrip("\ufeff") for name in next(reader, [])]
    missing = [name for name in NEEDED if name not in header]
    if missing:
        raise OperationError(
            f"the file has no column {missing[0]!r}. It needs {', '.join(NEEDED)}, and may have model"
        )
    by_model = "model" in header
    amounts: dict[Key, int] = {}
    for number, values in enumerate(reader, 2):
        if not values:
            continue
        if len(values) != len(header):
            raise OperationError(
                f"line {number} has {len(values)} columns, the header has {len(header)}"
            )
        cells = {name: value.strip() for name, value in zip(header, values, strict=True)}
        try:
            amount = parse_amount(cells["amount"])
            interval_ms(cells["period"], 1)
        except (MoneyError, ValueError) as error:
            raise OperationError(f"line {number}: {error}") from None
        if not cells["customer_id"]:
            raise OperationError(f"line {number} has no customer_id")
        key = cells["customer_id"], cells["period"], cells.get("model", "")
        amounts[key] = amounts.get(key, 0) + amount
    if not amounts:
        raise OperationError("the file has no invoices")
    return Invoices(amounts, by_model)


def interval_ms(period: str, billing_day: int) -> tuple[int, int]:
    """The first ms of a period, and the first behind it. Raises ValueError."""
    first, slash, second = period.partition("/")
    if not slash:
        month = billing_period(period, billing_day)
        return month.start_ms, month.end_ms
    try:
        start, end = (dt.date.fromisoformat(text) for text in (first, second))
    except ValueError:
        raise ValueError(
            f"{period!r} is no period. Write a month, 2027-01, or two dates, 2027-01-10/2027-02-10"
        ) from None
    if end <= start:
        raise ValueError(f"the period {period!r} is empty: its end must be after its beginning")
    return _date_ms(start), _date_ms(end)


def compare_invoices(
    store: EventStore, request: CompareRequest, progress: Callable[[int], None] | None = None
) -> list[ComparedInvoice]:
    """Every line of the invoices, and every charge in their periods that none of them has.

    progress: called with the number of rows read
    """
    invoices = request.invoices
    customers = {customer for customer, _, _ in invoices.amounts_nano}
    named = {period for _, period, _ in invoices.amounts_nano}
    periods = _Periods(named, request.billing_day_of)
    charged: dict[Key, int] = {}
    since_ms, until_ms = periods.span(customers)
    wanted = RowFilter(since_ms, until_ms, kinds=KINDS)
    for count, row in enumerate(store.rows(wanted), 1):
        if is_shadow(row.customer_id) == (request.mode == "shadow"):
            _add(charged, row, periods, by_model=invoices.by_model)
        if progress is not None and count % _REPORT_EVERY == 0:
            progress(count)
    keys = sorted(invoices.amounts_nano.keys() | {key for key, nano in charged.items() if nano})
    return [ComparedInvoice(*key, invoices.amounts_nano.get(key), charged.get(key)) for key in keys]


def compared_sheet(compared: Iterable[ComparedInvoice], *, by_model: bool) -> Sheet:
    """A row for each line, and totals. percent: of what was invoiced."""
    rows: list[list[Value]] = []
    invoiced = charged = 0
    for each in compared:
        invoiced += each.invoiced_nano or 0
        charged += each.charged_nano or 0
        numbers = _figures(each.invoiced_nano or 0, each.charged_nano or 0)
        model = [each.model] if by_model else []
        rows.append([each.customer_id, each.period, *model, each.status, *numbers])
    columns = [Column("customer"), Column("period"), *([Column("model")] if by_model else [])]
    columns += [
        Column("status"),
        Column("invoiced", "credits"),
        Column("charged", "credits"),
        Column("difference", "credits"),
        Column("percent", "percent"),
    ]
    texts = [""] * (4 if by_model else 3)
    return Sheet(columns, rows, [*texts, *_figures(invoiced, charged)])


def _figures(invoiced_nano: int, charged_nano: int) -> list[Value]:
    difference = charged_nano - invoiced_nano
    percent = Fraction(100 * difference, invoiced_nano) if invoiced_nano else None
    return [invoiced_nano, charged_nano, difference, percent]


class _Periods:
    """The periods of a file, and which of them a moment lies in."""

    def __init__(self, named: set[str], billing_day_of: Callable[[str], int]) -> None:
        self._named = sorted(named)
        self._billing_day_of = billing_day_of
        self._of_day: dict[int, list[tuple[str, int, int]]] = {}

    def of(self, customer_id: str) -> list[tuple[str, int, int]]:
        """Each period with its bounds, for this customer."""
        day = self._billing_day_of(customer_id)
        found = self._of_day.get(day)
        if found is None:
            found = self._of_day[day] = [(name, *interval_ms(name, day)) for name in self._named]
        return found

    def at(self, customer_id: str, at_ms: int) -> Iterator[str]:
        """The periods that a moment lies in."""
        return (name for name, start, end in self.of(customer_id) if start <= at_ms < end)

    def span(self, customers: Iterable[str]) -> tuple[int, int]:
        """A span that has every period, for these customers and for those with any other day."""
        bounds = [interval_ms(name, day) for name in self._named for day in (1, 31)]
        bounds += [(start, end) for each in customers for _, start, end in self.of(each)]
        return min(start for start, _ in bounds), max(end for _, end in bounds)


def _add(charged: dict[Key, int], row: EventRow, periods: _Periods, *, by_model: bool) -> None:
    amount = row.amount_nano
    if row.kind == "adjust":
        if not orjson.loads(row.facts).get("corrects"):
            return  # credit that was given or taken, no correction of a charge
        amount = -amount
    customer_id = owner_of(row.customer_id)
    model = (row.model or "") if by_model else ""
    for period in periods.at(customer_id, row.occurred_at_ms):
        key = customer_id, period, model
        charged[key] = charged.get(key, 0) + amount


def _date_ms(date: dt.date) -> int:
    return int(dt.datetime(date.year, date.month, date.day, tzinfo=dt.UTC).timestamp()) * 1000
