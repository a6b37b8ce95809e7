"""`events tail`, `events show`, `events export`: the events in the store."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.pretty import Pretty

from gateway.app.stores import store_access
from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, explained, read_settings
from gateway.cli.files import complete_file
from gateway.cli.output import AsJson, err, moment, out, plain, print_json, progress, row, table
from gateway.cli.periods import Since, Until, period_ms
from gateway.domain.delivery import StoredEvent
from gateway.domain.money import format_amount
from gateway.domain.stores import RowFilter, StoreAccess
from gateway.operations.documents import event_document, usage_text
from gateway.operations.event_files import EventFormat, write_events
from gateway.operations.events import show_event

POLL_S = 0.3

events = typer.Typer(help="Usage events and other entries of the ledger, as the store has them.")
app.add_typer(events, name="events", no_args_is_help=True)


@events.command()
def tail(
    config: ConfigFile = DEFAULT_CONFIG,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many.")] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue as events arrive, until Ctrl-C.")
    ] = False,
    customer: Annotated[str | None, typer.Option(help="Only this customer's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the latest events, oldest first; with --json one document a line."""
    settings = read_settings(config)
    try:
        with explained():
            access = store_access(settings)
            latest = _latest(access, count, customer, 0)
            _show(latest, as_json, header=True)
            while follow:
                time.sleep(POLL_S)
                after = latest[-1].position if latest else 0
                arrived = _latest(access, 10_000, customer, after)
                _show(arrived, as_json, header=not latest)
                latest = arrived or latest
    except KeyboardInterrupt:
        if not follow:
            raise


@events.command()
def show(
    event_id: Annotated[str, typer.Argument(help="The event's id, such as req_…:settled.")],
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show one event with all its fields."""
    with explained(), store_access(read_settings(config)).open_or_empty() as store:
        stored = show_event(store, event_id)
    document = event_document(stored.event, stored.stored_at_ms)
    if as_json:
        print_json(document)
        return
    shown = table("field", "value")
    for name, value in document.items():
        if value not in (None, {}, []):
            shown.add_row(name, Pretty(value) if isinstance(value, dict | list) else str(value))
    out.print(shown)


@events.command()
def export(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Gets its name when complete.")
    ],
    since: Since = "30d",
    until: Until = None,
    form: Annotated[EventFormat, typer.Option("--format", "-f", help="Of the file.")] = "jsonl",
    customer: Annotated[str | None, typer.Option(help="Only this customer's.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Write the raw events of a period into a file, with the columns of the store."""
    wanted = RowFilter(*period_ms(since, until), customer)
    with (
        explained(),
        store_access(read_settings(config)).open_or_empty() as store,
        progress(shown=err.is_terminal) as bar,
        complete_file(output) as file,
    ):
        rows = store.rows(wanted)
        done = write_events(rows, file, form, lambda count: bar("events", count, 0))
    charged = format_amount(done.charged_nano)
    if as_json:
        sums = {kind: format_amount(nano) for kind, nano in sorted(done.amounts_nano.items())}
        document = {"file": str(output), "rows": done.rows, "charged": charged, "amounts": sums}
        print_json(document)
    else:
        said = f"{done.rows:,} events in {output}, {charged} credits charged"
        out.print(plain(said), soft_wrap=True)


def _latest(access: StoreAccess, count: int, customer: str | None, after: int) -> list[StoredEvent]:
    with access.open_or_empty() as store:
        return store.latest(count, customer_id=customer, after=after)


def _show(found: list[StoredEvent], as_json: bool, *, header: bool) -> None:
    if as_json:
        for stored in found:
            print_json(event_document(stored.event, stored.stored_at_ms))
        return
    if not found:
        return
    shown = table("time", "kind", "customer", "model", "amount", "usage", "event", right=["amount"])
    shown.show_header = header
    for stored in found:
        event = stored.event
        row(
            shown,
            (
                moment(event.occurred_at_ms),
                event.kind,
                event.customer_id,
                event.facts.get("model"),
                format_amount(event.amount_nano),
                usage_text(event.usage) if event.usage else "",
                event.event_id,
            ),
        )
    out.print(shown)
