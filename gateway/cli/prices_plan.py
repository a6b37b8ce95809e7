"""`prices plan`: what a past period would have cost at a configuration's prices. Changes nothing.

Exit codes make it a check of price changes: 0 within the bounds, 1 beyond them or below cost, 2 when
it could not be planned.
"""

import re
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway.app.configured import ConfiguredBySettings
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_backend, read_settings
from gateway.cli.output import AsJson, err, out, plain, print_json, progress, row, table
from gateway.cli.parameters import moment_ms
from gateway.cli.pending import print_pending
from gateway.cli.prices import prices
from gateway.domain.money import format_amount
from gateway.operations.backend import Backend
from gateway.operations.plan_prices import (
    ENDLESS_MS,
    PlanRequest,
    amount_text,
    percent_text,
    plan_document,
    plan_prices,
)
from gateway.operations.price_changes import PendingPrices, changes_document, pending_prices
from gateway.operations.price_plan import Plan, PlanLine

CANNOT_PLAN: Final = 2


def percent(text: str) -> Fraction:
    """A share in percent, 0 or more."""
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text):
        raise typer.BadParameter(f"{text!r} is no percentage. Write a plain decimal: 12.5")
    return Fraction(text)


@prices.command()
def plan(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="The configuration with the new prices; --config without it."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Requests from then on: 2027-01-01T00:00:00Z."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Requests before then; up to now without it.")
    ] = None,
    customer: Annotated[str | None, typer.Option(help="Only this customer's.")] = None,
    max_increase: Annotated[
        Fraction | None,
        typer.Option(
            metavar="PERCENT",
            parser=percent,
            help="Exit 1 if a customer, or all together, would pay more than this much more.",
        ),
    ] = None,
    max_decrease: Annotated[
        Fraction | None,
        typer.Option(
            metavar="PERCENT",
            parser=percent,
            help="Exit 1 if a customer, or all together, would pay more than this much less.",
        ),
    ] = None,
    allow_below_cost: Annotated[
        bool, typer.Option("--allow-below-cost", help="Exit 0 even if something sells below cost.")
    ] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show what past requests would have cost at a configuration's prices. Changes nothing.

    Exit 1 when a change is beyond the bounds, or a customer's use of a model would be sold below
    cost; 2 when it could not be planned.
    """
    since_ms = moment_ms(since) if since is not None else 0
    until_ms = moment_ms(until) if until is not None else ENDLESS_MS
    if since_ms >= until_ms:
        raise typer.BadParameter("--until is not after --since")
    planned_by = read_settings(file, CANNOT_PLAN) if file is not None else None
    settings = read_settings(config, CANNOT_PLAN)
    configured = ConfiguredBySettings(planned_by or settings)

    async def work(backend: Backend) -> tuple[PendingPrices | None, Plan]:
        draft = configured.price_draft()
        pending = await pending_prices(backend, draft)
        if pending is not None and not as_json:
            print_pending(pending)
        request = PlanRequest(draft, configured.billing_day, since_ms, until_ms, customer)
        with progress(shown=err.is_terminal and not as_json) as report:
            planned = await plan_prices(
                backend, request, lambda done, total: report("requests", done, total)
            )
        return pending, planned

    pending, planned = on_backend(settings, work, CANNOT_PLAN)
    beyond = planned.beyond(max_increase, max_decrease)
    if as_json:
        document = plan_document(planned, beyond, since_ms, until_ms)
        print_json({**document, "pending": changes_document(pending)})
    else:
        _show(planned, beyond)
    if beyond or (planned.below_cost and not allow_below_cost):
        raise typer.Exit(1)


def _show(planned: Plan, beyond: tuple[PlanLine, ...]) -> None:
    numbers = ("events", "charged", "would be", "change", "%", "cost", "margin")
    shown = table("customer", "model", *numbers, right=numbers)
    sums = {line.customer_id: line for line in planned.customers}
    for customer_id, some in groupby(planned.lines, lambda line: line.customer_id):
        lines, of_all = list(some), sums[customer_id]
        style = "bold red" if of_all in beyond else ""
        for line in lines:
            alone = style if len(lines) == 1 else ""
            row(shown, _cells(line), "red" if line.below_cost else alone)
        if len(lines) > 1:
            row(shown, _cells(of_all, "all models"), style or "bold")
    row(shown, _cells(planned.total, "", "all"), "bold red" if planned.total in beyond else "bold")
    out.print(shown)
    if planned.unpriced:
        said = "No price any more, and left out of all sums: " + ", ".join(planned.unpriced)
        out.print(plain(said, "yellow"))
    for model, units in sorted(planned.untold.items()):
        said = f"{model}: the old prices did not distinguish {', '.join(sorted(units))}"
        out.print(plain(said, "yellow"))
    for line in beyond:
        whose = line.customer_id or "all together"
        out.print(
            plain(f"Beyond the bounds: {whose} {percent_text(line) or 'from nothing'}", "red")
        )
    for line in planned.below_cost:
        out.print(plain(f"Below cost: {line.customer_id} {line.name}", "red"))


def _cells(line: PlanLine, model: str = "", customer: str = "") -> tuple[object, ...]:
    return (
        customer or line.customer_id,
        line.name or model,
        line.events,
        format_amount(line.charged_nano),
        "no price" if line.would_nano is None else format_amount(line.would_nano),
        amount_text(line.change_nano),
        percent_text(line),
        amount_text(line.cost_nano),
        amount_text(line.margin_nano),
    )
