"""Compares every wallet with its grants, holds and counters: identities 1 and 2 of the ledger.

1. granted − settled − expired − voided + adjusted = remainders of all grants − overdraft
2. held, per grant, per wallet and per counter = sum of what the pending reservations hold

It reads while the gate works, and no read of several keys is one moment. So a customer who seems
to differ is read again, and only a difference that stays is reported.
"""

import asyncio
from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.cluster.client import scan_names
from gateway.ledger.client.reading import get_each
from gateway.ledger.codec.reservation_records import HeldLimit, Reservation
from gateway.ledger.codec.wallet_records import Counter, Wallet, read_scope
from gateway.ledger.hold_reader import OpenHold

ATTEMPTS: Final = 5
PAUSE_S: Final = 0.05

_Scopes = Mapping[str, Sequence[tuple[str, str, tuple[Counter, ...]]]]
"""By customer: (scope, project or key id, counters)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Two figures that must be equal and are not. Amounts in nano-credits."""

    customer_id: str
    what: str
    recorded: int
    derived: int

    def __str__(self) -> str:
        return f"{self.customer_id}: {self.what} is {self.recorded}, derived {self.derived}"


async def check_identities(
    store: AccountStore, client: Redis, customer_ids: Iterable[str] | None = None
) -> list[Difference]:
    """Every lasting difference, of these customers or of all. Raises LedgerUnavailable."""
    suspects = list(customer_ids) if customer_ids is not None else await store.wallets.customers()
    differences: list[Difference] = []
    for attempt in range(ATTEMPTS):
        if attempt:
            await asyncio.sleep(PAUSE_S)
        wallets = await store.wallets.read(suspects)
        holds: dict[str, list[OpenHold]] = {}
        for hold in await store.holds.open_holds():
            holds.setdefault(hold.reservation.customer_id, []).append(hold)
        scopes = await _scope_records(store, client)
        differences = [
            difference
            for name in suspects
            for difference in wallet_differences(
                name, wallets.get(name), holds.get(name, ()), scopes.get(name, ())
            )
        ]
        suspects = sorted({difference.customer_id for difference in differences})
        if not suspects:
            break
    return differences


def wallet_differences(
    customer_id: str,
    wallet: Wallet | None,
    holds: Sequence[OpenHold],
    scopes: Iterable[tuple[str, str, tuple[Counter, ...]]] = (),
) -> list[Difference]:
    """What differs in one wallet, read at one moment."""
    if wallet is None:
        return [Difference(customer_id, "wallet", 0, 1)]
    found: list[Difference] = []

    def equal(what: str, recorded: int, derived: int) -> None:
        if recorded != derived:
            found.append(Difference(customer_id, what, recorded, derived))

    remaining = sum(grant.remaining_nano for grant in wallet.grants)
    moved = (
        wallet.granted_nano
        - wallet.settled_nano
        - wallet.expired_nano
        - wallet.voided_nano
        + wallet.adjusted_nano
    )
    equal("remainders less overdraft", remaining - wallet.overdraft_nano, moved)
    reservations = [hold.reservation for hold in holds]
    by_grant: Tally[int] = Tally()
    for reservation in reservations:
        allocated = Tally[int]()
        for grant_no, nano in reservation.allocations:
            allocated[grant_no] += nano
        equal("allocations of a hold", sum(allocated.values()), reservation.held_nano)
        by_grant.update(allocated)
    equal("held", wallet.held_nano, sum(hold.held_nano for hold in reservations))
    equal("open reservations", wallet.open_reservations, len(reservations))
    equal("held on the credit limit", wallet.held_credit_nano, by_grant.pop(0, 0))
    for grant in wallet.grants:
        equal(f"held of grant {grant.no}", grant.held_nano, by_grant.pop(grant.no, 0))
        if grant.held_nano > grant.remaining_nano:
            found.append(
                Difference(
                    customer_id,
                    f"remainder of grant {grant.no} below its held",
                    grant.remaining_nano,
                    grant.held_nano,
                )
            )
    for grant_no, nano in by_grant.items():
        equal(f"held of grant {grant_no}, which is gone", 0, nano)
    for period in wallet.periods:
        derived = sum(
            counted.held
            for reservation in reservations
            for counted in reservation.counted
            if (counted.counter_id, counted.start_ms) == (period.counter_id, period.start_ms)
        )
        equal(f"held of period counter {period.counter_id}", period.held, derived)
    kept = [
        (_owner(reservation, limit), limit)
        for reservation in reservations
        for limit in reservation.limits
    ]
    for scope, name, counters in [("customer", "", wallet.counters), *scopes]:
        for counter in counters:
            by_window: Tally[int] = Tally()
            for owner, limit in kept:
                if owner == (scope, name) and limit.counter_id == counter.counter_id:
                    by_window[limit.window_start_ms] += limit.held
            what = f"held of counter {counter.counter_id} of {scope} {name}"
            for back, held in enumerate((counter.held, *(held for _, held in counter.slots))):
                derived = by_window[counter.window_start_ms - back * counter.slot_ms]
                equal(what, held, derived)
            in_slots = tuple(map(sum, zip(*counter.slots, strict=True))) or (0, 0)
            for sort, recorded, added in zip(
                ("used", "held"), counter.in_slots, in_slots, strict=True
            ):
                equal(f"{sort} of slots of {what}", recorded, added)
    return found


def _owner(reservation: Reservation, limit: HeldLimit) -> tuple[str, str]:
    if limit.scope == "project":
        return "project", reservation.project_id or ""
    return limit.scope, reservation.key_id if limit.scope == "key" else ""


async def _scope_records(store: AccountStore, client: Redis) -> _Scopes:
    """Every project's and key's record. Walks over all keys: off the hot path alone."""
    found: dict[str, list[tuple[str, str, tuple[Counter, ...]]]] = {}
    pattern = b"{%s:*}:[pk]:*" % store.names.namespace.encode()
    names = [name async for page in scan_names(client, pattern) for name in page]
    records = await get_each(client, names)
    for name, record in zip(names, records, strict=True):
        if record is not None:
            kind, customer_id, scoped = name.decode().partition("}:")[2].split(":", 2)
            found.setdefault(customer_id, []).append(
                ("project" if kind == "p" else "key", scoped, read_scope(record))
            )
    return found
