"""Past charges for re-rating: each request once, with everything that has corrected it since."""

from dataclasses import dataclass

import orjson

from gateway.domain.event_rows import EventRow
from gateway.domain.events import EventKind
from gateway.domain.history import reserved_at_ms
from gateway.domain.stores import EventStore, RowFilter
from gateway.domain.usage import DEFAULT_TIER
from gateway.domain.wallet_history import RERATE_PREFIX, USES


@dataclass(slots=True)
class PastCharge:
    """What the store has of one request that was charged. Amounts in nano-credits.

    last:          its last usage event
    charged_nano:  less what a volume price credited
    rerated_nano:  what re-rates have changed the balance by
    refunded_nano: what refunds and other adjustments of it have
    done:          the re-rate of its last event at the price that is asked for
    """

    last: EventRow
    reserved_at_ms: int
    charged_nano: int = 0
    rerated_nano: int = 0
    refunded_nano: int = 0
    done: EventRow | None = None

    @property
    def service_tier(self) -> str:
        """At whose price it was charged."""
        tier: str = orjson.loads(self.last.facts).get("service_tier") or DEFAULT_TIER
        return tier


@dataclass(frozen=True, slots=True)
class ChargeFilter:
    """Whose requests of which model; those that came from `since_ms` on, before `until_ms`."""

    customer_id: str
    model: str
    since_ms: int
    until_ms: int


def past_charges(store: EventStore, wanted: ChargeFilter, price_version: str) -> list[PastCharge]:
    """The requests that pass, in the order in which they came. price_version: see `PastCharge.done`"""
    found: dict[str, PastCharge] = {}
    kinds: frozenset[EventKind] = USES | {"adjust"}
    for row in store.rows(RowFilter(wanted.since_ms, None, wanted.customer_id, kinds)):
        if row.kind == "adjust":
            _note_adjustment(found, row, price_version)
            continue
        reservation_id = row.event_id.rpartition(":")[0]
        came_ms = reserved_at_ms(reservation_id, row.occurred_at_ms)
        if row.model != wanted.model or not wanted.since_ms <= came_ms < wanted.until_ms:
            continue
        charge = found.setdefault(reservation_id, PastCharge(row, came_ms))
        charge.last = row
        charge.charged_nano += row.amount_nano
    return sorted(found.values(), key=lambda each: each.reserved_at_ms)


def _note_adjustment(found: dict[str, PastCharge], row: EventRow, price_version: str) -> None:
    facts = orjson.loads(row.facts)
    corrects = str(facts.get("corrects"))
    charge = found.get(corrects.rpartition(":")[0])
    if charge is None:
        return
    if row.event_id.startswith(RERATE_PREFIX):
        charge.rerated_nano += row.amount_nano
        if row.event_id == rerate_id(corrects, price_version):
            charge.done = row
    elif facts.get("reason") == "volume" and "operation" not in facts:
        charge.charged_nano -= row.amount_nano
    else:
        charge.refunded_nano += row.amount_nano


def rerate_id(event_id: str, price_version: str) -> str:
    """The operation id of an event's re-rate at a price, and the id of its event."""
    return f"{RERATE_PREFIX}{event_id}:{price_version}"
