"""`prices plan`: what a past period would have cost at a configuration's prices. Changes nothing.

Exit codes make it a check of price changes: 0 within the bounds, 1 beyond them or below cost, 2 when
it could not be planned.
"""

import re
from decimal import Decimal
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, Context, on_ledger
from gateway.cli.output import AsJson, err, fail, out, plain, print_json, progress, row, table
from gateway.cli.parameters import moment_ms
from gateway.cli.price_changes import changes_document, read_tables, show_changes
from gateway.cli.prices import prices
from gateway.domain.money import format_amount
from gateway.ledger.accounts import RedisRunner
from gateway.ledger.reservations import Reservations
from gateway.ledger.shards import Shards
from gateway.operations.documents import timestamp
from gateway.operations.price_plan import Plan, PlanLine, Planner, lead_ms
from gateway.settings import Settings, SettingsError, load_settings

CANNOT_PLAN: Final = 2
ENDLESS_MS: Final = 253_402_300_800_000
"""The year 10000."""


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
    customer: Annotated[str | None, typer.Option(help="Of one customer only.")] = None,
    max_increase: Annotated[
        Fraction | None,
        typer.Option(
            metavar="PERCENT",
            parser=percent,
            help="Exit 1 if a customer, or all together, would pay so much more.",
        ),
    ] = None,
    max_decrease: Annotated[
        Fraction | None,
        typer.Option(
            metavar="PERCENT",
            parser=percent,
            help="Exit 1 if a customer, or all together, would pay so much less.",
        ),
    ] = None,
    allow_below_cost: Annotated[
        bool, typer.Option("--allow-below-cost", help="What sells below cost is no reason for 1.")
    ] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Tell what past requests would have cost at a configuration's prices. Changes nothing.

    Exit 1 when a change is beyond the bounds, or a customer's use of a model would be sold below
    cost; 2 when it could not be planned.
    """
    since_ms = moment_ms(since) if since is not None else 0
    until_ms = moment_ms(until) if until is not None else ENDLESS_MS
    if since_ms >= until_ms:
        raise typer.BadParameter("--until is not after --since")
    try:
        settings = load_settings(file) if file is not None else None
    except SettingsError as error:
        problems = "\n".join(str(problem) for problem in error.problems)
        raise fail(problems, CANNOT_PLAN) from None

    changes: list[dict[str, Any]] = []

    async def work(context: Context) -> Plan:
        nonlocal changes
        asked = (settings or context.settings, since_ms, until_ms, customer)
        changes = await _changes(context, asked[0], shown=not as_json)
        return await _plan(context, *asked, shown=err.is_terminal and not as_json)

    try:
        planned = on_ledger(config, work)
    except typer.Exit:
        raise typer.Exit(CANNOT_PLAN) from None
    beyond = planned.beyond(max_increase, max_decrease)
    if as_json:
        print_json({**_document(planned, beyond, since_ms, until_ms), "pending": changes})
    else:
        _show(planned, beyond)
    if beyond or (planned.below_cost and not allow_below_cost):
        raise typer.Exit(1)


async def _changes(context: Context, settings: Settings, *, shown: bool) -> list[dict[str, Any]]:
    """How the configuration's prices differ from those in force; printed if shown."""
    taken = await context.accounts.price_books().look(settings.price_draft())
    if taken is None or taken.state != "pending":
        return []
    tables = await read_tables(context, settings, taken.changes)
    if shown:
        show_changes(taken, tables)
    return changes_document(taken.changes, tables)


async def _plan(
    context: Context,
    settings: Settings,
    since_ms: int,
    until_ms: int,
    customer: str | None,
    *,
    shown: bool,
) -> Plan:
    draft = settings.price_draft()
    tables = draft.tables()
    wallets = await context.accounts.wallets(await context.accounts.customers())

    def billing_day_of(customer_id: str) -> int:
        if customer_id in settings.customers:
            return settings.billing_day(customer_id)
        known = wallets.get(customer_id)
        return known.billing_day if known else 1

    async def units_of(version: str) -> frozenset[str] | None:
        kept = await context.accounts.prices(version)
        return None if kept is None else frozenset(kept[0])

    lead = lead_ms(tables.values())
    from_ms = 0 if lead is None else max(0, since_ms - lead)
    total = context.store.count_past_uses(from_ms, until_ms, customer)
    with progress(shown=shown) as tell:
        planner = Planner(
            Reservations(Shards(RedisRunner(context.client))),
            draft.book,
            tables,
            billing_day_of,
            units_of,
            lambda done: tell("requests", done, total),
        )
        uses = context.store.past_uses(from_ms, until_ms, customer)
        try:
            planned = await planner.plan(uses, since_ms)
        except ValueError as error:
            raise fail(f"a charge passes the bounds of a number: {error}") from None
    if not planned.lines:
        raise fail("the store has no usage in this period: there is nothing to compare")
    return planned


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
        said = f"{model}: the old prices did not tell {', '.join(sorted(units))} apart"
        out.print(plain(said, "yellow"))
    for line in beyond:
        whose = line.customer_id or "all together"
        out.print(plain(f"Beyond the bounds: {whose} {_percent(line) or 'from nothing'}", "red"))
    for line in planned.below_cost:
        out.print(plain(f"Below cost: {line.customer_id} {line.name}", "red"))


def _cells(line: PlanLine, model: str = "", customer: str = "") -> tuple[object, ...]:
    return (
        customer or line.customer_id,
        line.name or model,
        line.events,
        format_amount(line.charged_nano),
        "no price" if line.would_nano is None else format_amount(line.would_nano),
        _amount(line.change_nano),
        _percent(line),
        _amount(line.cost_nano),
        _amount(line.margin_nano),
    )


def _amount(nano: int | None) -> str | None:
    return None if nano is None else format_amount(nano)


def _percent(line: PlanLine) -> str | None:
    """To two digits, with its sign."""
    if line.percent is None:
        return None
    hundredths = round(line.percent * 100)
    return f"{Decimal(hundredths) / 100:+.2f}"


def _document(
    planned: Plan, beyond: tuple[PlanLine, ...], since_ms: int, until_ms: int
) -> dict[str, Any]:
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


def _line(line: PlanLine) -> dict[str, Any]:
    said = {"customer_id": line.customer_id, "model": line.model}
    if line.model:
        said["service_tier"] = line.service_tier
    return {
        **{name: value for name, value in said.items() if value},
        "events": line.events,
        "charged": format_amount(line.charged_nano),
        "would_be": _amount(line.would_nano),
        "change": _amount(line.change_nano),
        "percent": _percent(line),
        "cost": _amount(line.cost_nano),
        "margin": _amount(line.margin_nano),
    }
