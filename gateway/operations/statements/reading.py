"""Read a wallet's events in the order in which the ledger wrote them, from any store."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final, get_args

from gateway.domain.delivery import Place
from gateway.domain.event_rows import EventRow
from gateway.domain.events import EventKind
from gateway.domain.stores import EventStore, RowFilter

_OF_WALLETS: Final[frozenset[EventKind]] = frozenset(get_args(EventKind)) - {"audit"}
CLOCK_BACK_MS: Final = 3_600_000
"""How far a failover may set the ledger's clock back and a period still end at one place."""


def in_order(store: EventStore, wanted: RowFilter) -> Iterator[EventRow]:
    """The rows that pass, by shard and place; those of audit entries, which know no balance, do not.

    Stores return rows by time. Where the ledger's clock was set back, by a failover, time and place
    differ, and the rows are sorted here, in memory.
    """
    wanted = replace(wanted, kinds=wanted.kinds or _OF_WALLETS)
    last: dict[int, Place] = {}
    for row in store.rows(wanted):
        if row.place <= last.get(row.shard, Place(0, 0)):
            return iter(sorted(store.rows(wanted), key=lambda each: (each.shard, *each.place)))
        last[row.shard] = row.place
    return store.rows(wanted)


def first_place(store: EventStore, customer_id: str, since_ms: int) -> Place | None:
    """The place of a wallet's first event from a moment on; None where there is none yet."""
    found: Place | None = None
    until_ms = None
    wanted = RowFilter(since_ms=since_ms, customer_id=customer_id, kinds=_OF_WALLETS)
    for row in store.rows(wanted):
        if until_ms is None:
            until_ms = row.occurred_at_ms + CLOCK_BACK_MS
        elif row.occurred_at_ms >= until_ms:
            break
        found = row.place if found is None else min(found, row.place)
    return found
