"""`plan`: what a past period would have cost at a draft's prices. Changes nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from gateway.domain.money import format_amount
from gateway.domain.pricebook import Draft
from gateway.operations.backend import Backend
from gateway.operations.documents import timestamp
from gateway.operations.errors import Conflict, NotFound
from gateway.operations.price_plan import Plan, PlanLine, Planner, lead_ms

ENDLESS_MS: Final = 253_402_300_800_000
"""The year 10000, in Unix ms: no end."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What to plan.

    draft:          the prices
    billing_day_of: a customer's billing day by those prices' configuration; None where it has none
    since_ms:       requests from then on, Unix ms. until_ms: and before then
    customer_id:    of one customer; None for all
    """

    draft: Draft
    billing_day_of: Callable[[str], int | None]
    since_ms: int = 0
    until_ms: int = ENDLESS_MS
    customer_id: str | None = None


async def plan_prices(
    backend: Backend, request: PlanRequest, progress: Callable[[int, int], None] | None = None
) -> Plan:
    """Rate the period's requests at the new prices. progress: called with requests done, of how many.

    Raises NotFound, Conflict, LedgerUnavailable.
    """
    tables, since_ms = request.draft.tables(), request.since_ms
    wallets = await backend.accounts.wallets.read(await backend.accounts.wallets.customers())

    def billing_day_of(customer_id: str) -> int:
        configured = request.billing_day_of(customer_id)
        if configured is not None:
            return configured
        wallet = wallets.get(customer_id)
        return wallet.billing_day if wallet else 1

    async def units_of(version: str) -> frozenset[str] | None:
        kept = await backend.accounts.prices.find(version)
        return None if kept is None else frozenset(kept[0])

    lead = lead_ms(tables.values())
    period = (0 if lead is None else max(0, since_ms - lead), request.until_ms, request.customer_id)
    total = backend.store.count_past_uses(*period) if progress is not None else 0

    def rated(count: int) -> None:
        if progress is not None:
            progress(count, total)

    planner = Planner(
        backend.reservations, request.draft.book, tables, billing_day_of, units_of, rated
    )
    try:
        planned = await planner.plan(backend.store.past_uses(*period), since_ms)
    except ValueError as error:
        raise Conflict(f"a charge exceeds the bounds of a number: {error}") from error
    if not planned.lines:
        raise NotFound("the store has no usage in this period: there is nothing to compare")
    return planned


def plan_document(
    planned: Plan, beyond: tuple[PlanLine, ...], since_ms: int, until_ms: int
) -> dict[str, Any]:
    """A plan as a JSON document. beyond: what changes by more than it may."""
    return {
        "since": timestamp(since_ms) if since_ms else None,
        "until": timestamp(until_ms) if until_ms != ENDLESS_MS else None,
        "lines": [_line(line) for line in planned.lines],
        "customers": [_line(line) for line in planned.customers],
        "total": _line(planned.total),
        "unpriced": list(planned.unpriced),
        "untold": {model: sorted(units) for model, units in planned.untold.items()},
        "beyond": [line.customer_id or None for line in beyond],
        "below_cost": [[line.customer_id, line.name] for line in planned.below_cost],
    }


def amount_text(nano: int | None) -> str | None:
    """Credits as a decimal; None for what is not known."""
    return None if nano is None else format_amount(nano)


def percent_text(line: PlanLine) -> str | None:
    """A line's change in percent, with its sign and two digits; None where nothing was charged."""
    if line.percent is None:
        return None
    hundredths = round(line.percent * 100)
    return f"{Decimal(hundredths) / 100:+.2f}"


def _line(line: PlanLine) -> dict[str, Any]:
    names = {"customer_id": line.customer_id, "model": line.model}
    if line.model:
        names["service_tier"] = line.service_tier
    return {
        **{name: value for name, value in names.items() if value},
        "events": line.events,
        "charged": format_amount(line.charged_nano),
        "would_be": amount_text(line.would_nano),
        "change": amount_text(line.change_nano),
        "percent": percent_text(line),
        "cost": amount_text(line.cost_nano),
        "margin": amount_text(line.margin_nano),
    }
