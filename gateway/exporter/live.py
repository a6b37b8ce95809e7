"""What was sold in the last hour, by minute, customer and model, and what each customer has left.

Fed by the pump with each batch that the store has taken, so that it is current within a batch of the
settlement. It lies in memory alone: it shows and warns, nobody bills by it, and it begins empty with its
process. A place that was delivered twice (an exporter took over from another) counts twice.
Bounded: of a minute with more pairs of customer and model than `pairs_most`, the rest is one pair.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Final

from gateway.domain.customers import is_shadow
from gateway.domain.event_rows import COLUMNS, EventRow
from gateway.telemetry.metrics import OVERFLOW_LABEL

MINUTE_MS: Final = 60_000
MINUTES: Final = 60
PAIRS_MOST: Final = 5000
BALANCES_MOST: Final = 50_000
OTHER: Final = OVERFLOW_LABEL

_SOLD: Final = itemgetter(
    *map(
        COLUMNS.index,
        ("kind", "occurred_at_ms", "customer_id", "model", "amount_nano", "cost_nano"),
    )
)
_BALANCE: Final = itemgetter(COLUMNS.index("customer_id"), COLUMNS.index("balance_nano"))
_REQUESTS: Final = {"settle": 1, "expire": 1, "settle_late": 0}
"""Kinds that charge → requests that each is."""

Cell = list[int]
"""Requests, charged, cost, charged without a known cost."""


@dataclass(frozen=True, slots=True)
class Sold:
    """What one customer or model came to. Amounts in nano-credits.

    name:          the customer or model; `(other)` for all that are not named
    uncosted_nano: the part of the charges whose cost is not known
    balance_nano:  of a customer, after its last event; None where none is known
    """

    name: str
    requests: int
    charged_nano: int
    cost_nano: int
    uncosted_nano: int
    balance_nano: int | None = None

    @property
    def margin_nano(self) -> int:
        """Charges less cost, of what has a known cost."""
        return self.charged_nano - self.uncosted_nano - self.cost_nano


class Live:
    """The last `MINUTES` minutes."""

    def __init__(
        self,
        *,
        pairs_most: int = PAIRS_MOST,
        balances_most: int = BALANCES_MOST,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._pairs_most = pairs_most
        self._balances_most = balances_most
        self.charged_nano = 0
        """Of all that was fed since the start: charges of live wallets. What late settlements gave back is
        not taken off, so that it only rises."""
        self._now_ms = now_ms
        self._minutes: dict[int, dict[tuple[str, str | None], Cell]] = {}
        self._balances: dict[str, int] = {}
        """In the order in which they were last moved."""

    def add(self, rows: Sequence[EventRow]) -> None:
        """Take rows in the order of their shards. What is older than the window is left out."""
        oldest = self._forget()
        minutes, requests = self._minutes, _REQUESTS
        last = None
        cells: dict[tuple[str, str | None], Cell] = {}
        for kind, at_ms, customer_id, model, amount_nano, cost_nano in map(_SOLD, rows):
            if kind not in requests or is_shadow(customer_id):
                continue
            if amount_nano > 0 and "~" not in customer_id:  # that marks test and shadow wallets
                self.charged_nano += amount_nano
            minute = at_ms // MINUTE_MS
            if minute != last:
                if minute < oldest:
                    continue
                cells, last = minutes.setdefault(minute, {}), minute
            cell = cells.get((customer_id, model))
            if cell is None:
                cell = self._cell(cells, customer_id, model)
            cell[0] += requests[kind]
            cell[1] += amount_nano
            if cost_nano is None:
                cell[3] += amount_nano
            else:
                cell[2] += cost_nano
        self._note_balances(dict(map(_BALANCE, (row for row in rows if row.kind != "audit"))))

    def customers(self, most: int) -> list[Sold]:
        """Return the `most` customers who spent most in the window, then all others as one."""
        balances = self._balances
        return [replace(sold, balance_nano=balances.get(sold.name)) for sold in self._top(0, most)]

    def models(self, most: int) -> list[Sold]:
        """Return the `most` models that sold most in the window, then all others as one."""
        return self._top(1, most)

    def _top(self, part: int, most: int) -> list[Sold]:
        self._forget()
        sums: dict[str, Cell] = {}
        for cells in self._minutes.values():
            for pair, cell in cells.items():
                _add(sums.setdefault(pair[part] or "", [0, 0, 0, 0]), cell)
        rest = sums.pop(OTHER, [0, 0, 0, 0])
        ranked = sorted(sums.items(), key=lambda item: (-item[1][1], item[0]))
        for _, cell in ranked[most:]:
            _add(rest, cell)
        named = [Sold(name, *cell) for name, cell in ranked[:most]]
        return [*named, Sold(OTHER, *rest)] if any(rest) else named

    def _cell(
        self, cells: dict[tuple[str, str | None], Cell], customer_id: str, model: str | None
    ) -> Cell:
        if len(cells) >= self._pairs_most:
            return cells.setdefault((OTHER, OTHER), [0, 0, 0, 0])
        return cells.setdefault((customer_id, model), [0, 0, 0, 0])

    def _note_balances(self, latest: dict[str, int]) -> None:
        balances = self._balances
        for customer_id, balance_nano in latest.items():
            balances.pop(customer_id, None)
            balances[customer_id] = balance_nano
        while len(balances) > self._balances_most:
            del balances[next(iter(balances))]

    def _forget(self) -> int:
        """Drop minutes that have left the window; return the first that is in it."""
        oldest = self._now_ms() // MINUTE_MS - MINUTES + 1
        for minute in [minute for minute in self._minutes if minute < oldest]:
            del self._minutes[minute]
        return oldest


def _add(to: Cell, more: Iterable[int]) -> None:
    for index, number in enumerate(more):
        to[index] += number
