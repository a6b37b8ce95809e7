"""`report usage|margin|refusals|shadow`: what was sold, what it left, what was or would have been refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from gateway.app.stores import store_access
from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, explained, read_settings
from gateway.cli.output import AsJson, err, progress
from gateway.cli.periods import Since, Until, period_ms
from gateway.cli.sheets import Answer, AsFormat, Output, show_sheet
from gateway.domain.stores import EventStore
from gateway.operations.documents import timestamp
from gateway.operations.refused_report import refusals_sheet
from gateway.operations.report import Report, ReportRequest, margin_sheet, usage_sheet
from gateway.operations.report import report as make_report
from gateway.operations.shadow_report import ShadowRequest, customers_sheet, shadow_report
from gateway.operations.shadow_report import refusals_sheet as would_refuse_sheet
from gateway.operations.sheets import Sheet

DEFAULT_SINCE = "30d"

reports = typer.Typer(help="Usage, margin and refusals of a period, from the required store.")
app.add_typer(reports, name="report", no_args_is_help=True)

Customer = Annotated[str | None, typer.Option(help="Only this customer's.")]


UsageDimensions = Annotated[
    str,
    typer.Option(
        help="Dimensions: customer, project, key, model, route, upstream, day, hour, kind."
    ),
]


def dimensions(text: str) -> tuple[str, ...]:
    """Names with commas between them, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise typer.BadParameter("name at least one dimension, such as customer,model")
    return names


@reports.command()
def usage(
    by: UsageDimensions = "customer,model",
    since: Since = DEFAULT_SINCE,
    until: Until = None,
    customer: Customer = None,
    form: AsFormat = "table",
    output: Output = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show requests, quantities by unit, charges and cost. Days and hours are UTC."""
    request = _request(by, since, until, customer)
    answer = Answer("json" if as_json else form, output)
    _show(config, request, answer, lambda store: usage_sheet(_made(store, request)))


@reports.command()
def margin(
    by: UsageDimensions = "customer,model",
    since: Since = DEFAULT_SINCE,
    until: Until = None,
    customer: Customer = None,
    form: AsFormat = "table",
    output: Output = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show charges, cost and margin. Charges whose cost is not known are no part of the margin."""
    request = _request(by, since, until, customer)
    answer = Answer("json" if as_json else form, output)
    _show(config, request, answer, lambda store: margin_sheet(_made(store, request)))


@reports.command()
def refusals(
    by: Annotated[
        str, typer.Option(help="Dimensions: customer, model, reason, day, hour.")
    ] = "customer,reason",
    since: Since = DEFAULT_SINCE,
    until: Until = None,
    customer: Customer = None,
    form: AsFormat = "table",
    output: Output = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show what was turned away, why, and the most that it could have cost. By complete hours."""
    request = _request(by, since, until, customer)
    answer = Answer("json" if as_json else form, output)
    _show(config, request, answer, lambda store: refusals_sheet(store, request))


@reports.command()
def shadow(
    by: Annotated[
        Literal["customer", "reason"],
        typer.Option(
            help="customer: what each would have been charged, and how much credit was missing."
            " reason: what would have been refused, and why."
        ),
    ] = "customer",
    since: Since = DEFAULT_SINCE,
    until: Until = None,
    customer: Customer = None,
    form: AsFormat = "table",
    output: Output = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show what shadow mode has found. Refusals are counted by complete hours."""
    since_ms, until_ms = period_ms(since, until)
    wanted = ShadowRequest(since_ms, until_ms, customer)

    def make(store: EventStore) -> Sheet:
        with progress(shown=err.is_terminal) as bar:
            made = shadow_report(store, wanted, lambda count: bar("events", count, 0))
        return customers_sheet(made) if by == "customer" else would_refuse_sheet(made)

    answer = Answer("json" if as_json else form, output)
    _show(config, ReportRequest((by,), since_ms, until_ms, customer), answer, make)


def _request(by: str, since: str, until: str | None, customer: str | None) -> ReportRequest:
    return ReportRequest(dimensions(by), *period_ms(since, until), customer)


def _made(store: EventStore, request: ReportRequest) -> Report:
    with progress(shown=err.is_terminal) as bar:
        return make_report(store, request, lambda count: bar("events", count, 0))


def _show(
    config: Path,
    request: ReportRequest,
    answer: Answer,
    make: Callable[[EventStore], Sheet],
) -> None:
    with explained():
        with store_access(read_settings(config)).open_or_empty() as store:
            sheet = make(store)
        about = {
            "since": None if request.since_ms is None else timestamp(request.since_ms),
            "until": None if request.until_ms is None else timestamp(request.until_ms),
            "by": list(request.by),
        }
        show_sheet(sheet, answer, about)
