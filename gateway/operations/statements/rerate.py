"""`rerate`: charge past requests at another price, by one adjustment per event.

What a request would have cost is rated by the ledger's own script, in the order in which requests came, on
counters that begin blank; uses of the same counting period from before `since_ms` are rated first. The
adjustment of an event has the operation id `rerate:EVENT_ID:PRICE_VERSION`, so that it is made once, and a run
that was interrupted is repeated as a whole.

Rules:
- what was paid for a request is its charge, less what a volume price credited, and with earlier re-rates;
- a request that an expiry and its late settlement charged has one adjustment, of its last event;
- credit is given for what is still paid: what was refunded is not given back twice;
- credit becomes one grant that is burned last and never expires, as with volume prices.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import orjson

from gateway.domain.billing_periods import window_start_ms
from gateway.domain.customers import is_shadow
from gateway.domain.money import format_amount
from gateway.domain.pricing import PriceTable
from gateway.domain.reservation import MAX_USES, Use
from gateway.domain.usage import usage_in_tier
from gateway.ledger.client.errors import LedgerRefusal
from gateway.ledger.codec.operations import Adjustment
from gateway.operations.audit import signed
from gateway.operations.backend import Backend
from gateway.operations.customers import wallet_of
from gateway.operations.documents import timestamp
from gateway.operations.errors import NotFound
from gateway.operations.idempotency import Change
from gateway.operations.refund import LATE_SETTLE_MS
from gateway.operations.statements.past_charges import (
    ChargeFilter,
    PastCharge,
    past_charges,
    rerate_id,
)

LAST_PRIORITY: Final = 255

Status = Literal["planned", "applied", "done", "same", "waits", "no_price"]
"""planned: a dry run; applied: now; done: by an earlier run; same: costs the same; waits: an expiry whose late
settlement can still come; no_price: the other price has none for this service tier"""

_REFUSALS: Final = {
    "too_many_grants": (
        "{subject} has 64 grants with something left in them. What was adjusted so far stays; run this"
        " again when one of them is used up or has expired"
    ),
    "total_too_large": "all corrections of {subject} together would exceed 9,000,000 credits",
}


@dataclass(frozen=True, slots=True)
class RerateRequest:
    """Which requests to re-rate, and at which price.

    since_ms, until_ms: requests that came from then on and before then, Unix ms
    customer_id:        of one customer; None for all
    apply:              make the adjustments; if false, nothing is changed
    """

    model: str
    price_version: str
    since_ms: int
    until_ms: int
    customer_id: str | None = None
    apply: bool = False


@dataclass(frozen=True, slots=True)
class Rerated:
    """One request at the other price. Amounts in nano-credits.

    event_id:    of its last event; the one that is adjusted
    usage:       without the tier in its units' names
    old_version: of the price that it was charged at
    paid_nano:   what it was charged, with earlier re-rates, without refunds
    would_nano:  what it costs at the other price
    change_nano: of the balance, signed; so much is adjusted
    """

    customer_id: str
    event_id: str
    request_id: str | None
    reserved_at_ms: int
    service_tier: str
    usage: dict[str, int]
    old_version: str | None
    paid_nano: int
    would_nano: int
    change_nano: int
    status: Status


@dataclass(frozen=True, slots=True)
class _Context:
    backend: Backend
    request: RerateRequest
    table: PriceTable
    now_ms: int


async def rerate(
    backend: Backend,
    request: RerateRequest,
    took: Callable[[Rerated], None],
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Re-rate, customer by customer. took: called with each request, as it is done

    progress: called with "customers" or "requests", how many are done, of how many; requests are
              counted as their customers are reached
    Raises NotFound, Conflict, OutcomeUnknown, LedgerUnavailable.
    """
    tables = await backend.accounts.books.tables([request.price_version])
    table = tables.get(request.price_version)
    if table is None:
        raise NotFound(
            f"there is no price version {request.price_version}: `creditgate prices show --json` lists"
            " those of a price book"
        )
    if request.customer_id is not None:
        await wallet_of(backend, request.customer_id)
        names = [request.customer_id]
    else:
        everyone = await backend.accounts.wallets.customers()
        names = [name for name in everyone if not is_shadow(name)]
    context = _Context(backend, request, table, await backend.accounts.now_ms())
    report = progress or (lambda _what, _done, _total: None)
    done = total = 0
    for number, customer_id in enumerate(names):
        report("customers", number, len(names))
        requests = await _rated(context, customer_id)
        total += len(requests)
        for each in requests:
            took(await _apply(context, each) if request.apply else each)
            done += 1
            report("requests", done, total)
    report("customers", len(names), len(names))


async def _rated(context: _Context, customer_id: str) -> list[Rerated]:
    """One customer's requests at the other price, in the order in which they came."""
    backend, wanted = context.backend, context.request
    billing_day = await _billing_day(backend, customer_id)
    since_ms = min(
        (
            window_start_ms(rate.period, wanted.since_ms, billing_day)
            for rate in context.table.rates.values()
            if not rate.plain
        ),
        default=wanted.since_ms,
    )
    chosen = ChargeFilter(customer_id, wanted.model, since_ms, wanted.until_ms)
    requests = past_charges(backend.store, chosen, wanted.price_version)
    periods, planned = b"", []
    for at in range(0, len(requests), MAX_USES):
        some = requests[at : at + MAX_USES]
        uses = [Use(each.reserved_at_ms, context.table.vector(_usage_of(each))) for each in some]
        rated = await backend.reservations.rate(
            context.table, uses, billing_day=billing_day, periods=periods
        )
        periods = rated.periods
        for each, would_nano in zip(some, rated.charges_nano, strict=True):
            if each.reserved_at_ms >= wanted.since_ms:
                planned.append(_planned(context, each, would_nano))
    return planned


def _usage_of(request: PastCharge) -> dict[str, int]:
    usage = dict(orjson.loads(request.last.usage))
    if usage:  # a price that has no price for a request does not count it, though each is one
        usage.setdefault("request", 1)
    return dict(usage_in_tier(usage, request.service_tier))


def _planned(context: _Context, request: PastCharge, would_nano: int) -> Rerated:
    row = request.last
    paid_nano = request.charged_nano - request.rerated_nano
    change_nano = paid_nano - would_nano
    if change_nano > 0:
        change_nano = min(change_nano, max(0, paid_nano - request.refunded_nano))
    status: Status = "planned" if change_nano else "same"
    if request.done is not None:
        # The re-rate at this price is part of what was paid: nothing is left to change.
        change_nano, status = 0, "done"
    elif row.kind == "expire" and context.now_ms - row.occurred_at_ms < LATE_SETTLE_MS:
        change_nano, status = 0, "waits"
    elif request.service_tier not in context.table.service_tiers:
        would_nano, change_nano, status = paid_nano, 0, "no_price"
    return Rerated(
        row.customer_id,
        row.event_id,
        row.request_id,
        request.reserved_at_ms,
        request.service_tier,
        orjson.loads(row.usage),
        row.price_version,
        paid_nano,
        would_nano,
        change_nano,
        status,
    )


async def _apply(context: _Context, planned: Rerated) -> Rerated:
    if planned.status != "planned":
        return planned
    backend, wanted = context.backend, context.request
    adjustment = Adjustment(
        planned.change_nano,
        f"re-rated at {wanted.price_version}",
        corrects=planned.event_id,
        priority=LAST_PRIORITY,
    )
    key = rerate_id(planned.event_id, wanted.price_version)
    facts = {
        **signed(backend, "charge.rerate", adjustment.reason),
        "operation": "rerate",
        "request_id": planned.request_id,
    }
    try:
        with Change(key, "re-rated", planned.customer_id, _REFUSALS).explained():
            made = await backend.wallets.adjust(planned.customer_id, key, adjustment, facts)
    except LedgerRefusal as refused:
        if refused.word != "exists_with_different_parameters":
            raise
        # An earlier run made it, with what was paid then, and its event is not in the store yet.
        return replace(planned, change_nano=0, status="done")
    return replace(planned, status="done" if made.replayed else "applied")


async def _billing_day(backend: Backend, customer_id: str) -> int:
    day = backend.configured.billing_day(customer_id)
    if day is not None:
        return day
    wallet = (await backend.accounts.wallets.read([customer_id])).get(customer_id)
    return wallet.billing_day if wallet else 1


RERATED_COLUMNS: Final = (
    "customer_id",
    "event_id",
    "reserved_at",
    "service_tier",
    "usage",
    "price_version",
    "paid",
    "new_price_version",
    "would_be",
    "change",
    "status",
    "operation_id",
)
"""Columns of the CSV: the names of `rerated_document`."""


def rerated_document(each: Rerated, price_version: str) -> dict[str, Any]:
    """One request as a flat JSON object, and a row of the CSV."""
    return {
        "customer_id": each.customer_id,
        "event_id": each.event_id,
        "reserved_at": timestamp(each.reserved_at_ms),
        "service_tier": each.service_tier,
        "usage": orjson.dumps(each.usage).decode(),
        "price_version": each.old_version,
        "paid": format_amount(each.paid_nano),
        "new_price_version": price_version,
        "would_be": format_amount(each.would_nano),
        "change": format_amount(each.change_nano),
        "status": each.status,
        "operation_id": rerate_id(each.event_id, price_version),
    }
