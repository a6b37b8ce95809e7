"""A page of customers for the list: names by prefix, with their wallets."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.operations.backend import Backend
from gateway.operations.wallets import WalletEntry

PAGE: Final = 50


@dataclass(frozen=True, slots=True)
class CustomerRow:
    """One customer of the list."""

    entry: WalletEntry
    configured: bool


@dataclass(frozen=True, slots=True)
class CustomerList:
    """One page. after: the last name, from which the next page goes on; "" on the last page"""

    rows: Sequence[CustomerRow]
    now_ms: int
    total: int
    after: str


async def customer_list(
    backend: Backend, prefix: str, after: str, limit: int = PAGE
) -> CustomerList:
    """Customers whose ids begin with a prefix, behind `after`. Raises LedgerUnavailable."""
    configured = backend.configured.customer_ids
    names = sorted(
        name
        for name in {*await backend.accounts.wallets.customers(), *configured}
        if name.startswith(prefix) and "~" not in name
    )
    begin = bisect.bisect_right(names, after) if after else 0
    shown = names[begin : begin + limit]
    wallets = await backend.accounts.wallets.read(shown)
    now_ms = await backend.accounts.now_ms()
    rows = [
        CustomerRow(WalletEntry(name, wallets.get(name), now_ms), name in configured)
        for name in shown
    ]
    more = begin + limit < len(names)
    return CustomerList(rows, now_ms, len(names), shown[-1] if more else "")
