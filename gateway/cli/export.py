"""`export`: the exporter alone, how delivery is, and trying, feeding and changing sinks."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from gateway.app.backend import open_endpoint
from gateway.app.exporting import assemble_exporter, member
from gateway.app.private import UMASK
from gateway.app.repairing import Repairer, assemble_repairer
from gateway.app.stores import adopt_store, find_sink, store_access
from gateway.app.tasks import end_tasks
from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, explained, on_backend, read_settings
from gateway.cli.output import AsJson, err, fail, out, plain, print_json, progress, row, table
from gateway.cli.parameters import Reason
from gateway.cli.periods import when_ms
from gateway.domain.delivery import Place
from gateway.domain.stores import RowFilter
from gateway.exporter.main import Exporter, run_exporter
from gateway.exporter.replay import replay, send_test_event
from gateway.exporter.tally import Tally
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.operations.audit import Noted, record
from gateway.operations.export_status import ExportStatus, export_status, status_document
from gateway.settings import Settings

T = TypeVar("T")

export = typer.Typer(help="Delivery of events: run it, look at it, try a sink, send events again.")
app.add_typer(export, name="export", no_args_is_help=True)


@export.command()
def run(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Deliver events from the ledger until SIGTERM or Ctrl-C, then flush and exit.

    A running gate has an exporter of its own; several exporters on one ledger share the work.
    """
    settings = read_settings(config)
    with explained():
        tally = asyncio.run(_run(settings))
    delivered = f"{tally.delivered} events delivered, {tally.duplicates} were there already"
    err.print(plain(f"{delivered}, {tally.dead_letters} dead letters, {tally.anomalies} anomalies"))


@export.command()
def status(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show lag, exporters and dead letters; exit 1 if nobody exports or something was given up.

    While the store is away: what the ledger knows.
    """
    found = on_backend(read_settings(config), export_status, need_store=False)
    now_ms = time.time_ns() // 1_000_000
    if as_json:
        print_json(status_document(found, now_ms))
    else:
        _print_status(found, now_ms)
    if not found.well:
        raise typer.Exit(1)


@export.command(name="replay")
def replay_command(
    sink: Annotated[str, typer.Option("--sink", help="An optional sink, as configured.")],
    since: Annotated[
        str | None, typer.Option(help="Events from then on: a date, RFC 3339, or 7d, 12h.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Events before then.")] = None,
    seq: Annotated[
        str | None,
        typer.Option(
            help="Events of one shard from a place on: SHARD:EPOCH-SEQ, such as 12:1-5000."
        ),
    ] = None,
    customer: Annotated[str | None, typer.Option(help="Only this customer's.")] = None,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Send stored events to a sink again, with the ids and times that they had.

    Receivers recognise repeats by the id; those that forget after a while get none that is older.
    """
    if not (since or seq or customer):
        raise fail("name what to send: --since, --seq or --customer")
    settings = read_settings(config)
    now_ms = time.time_ns() // 1_000_000
    wanted = RowFilter(
        since_ms=when_ms(since, now_ms) if since else None,
        until_ms=when_ms(until, now_ms) if until else None,
        customer_id=customer,
    )
    place = _read_place(seq) if seq else None
    with explained(), store_access(settings).open() as store:
        rows = store.rows(wanted)
        if place is not None:
            shard, after = place
            rows = (row for row in rows if row.shard == shard and row.place >= after)
        target = find_sink(settings, sink)
        asked = {"since": since, "until": until, "place": seq}
        said = {name: text for name, text in asked.items() if text is not None}
        _note(settings, Noted("export.replay", sink, customer or "", reason, after=said))
        with progress(shown=err.is_terminal) as report:
            done = asyncio.run(replay(sink, target, rows, lambda sent: report("events", sent, 0)))
    out.print(
        plain(f"{done.stored} sent, {done.duplicates} were there already, {done.dead} not taken")
    )
    if done.dead:
        raise typer.Exit(1)


@export.command(name="test")
def send_event(
    sink: Annotated[str, typer.Argument(help="A sink, as configured.")],
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Send one marked event of no charge to a sink, of the customer `creditgate-test`."""
    settings = read_settings(config)
    with explained():
        event, written = asyncio.run(send_test_event(find_sink(settings, sink)))
    if written.failed:
        raise fail(f"{sink} did not take it: {written.failed[0].reason}")
    if written.skipped:
        out.print(plain(f"{sink} can be reached; it takes no events of this kind.", "bold green"))
        return
    out.print(plain(f"{sink} has {event.event_id}.", "bold green"))


@export.command()
def adopt(
    reset_progress: Annotated[
        bool,
        typer.Option(
            "--reset-progress",
            help="Forget how far sinks were fed: each begins as one new in the file.",
        ),
    ] = False,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Make the configured required store the ledger's, in place of another one.

    Stop every exporter first. The store must have all that the ledger has trimmed: run it as an
    optional sink until `export status` shows no lag. Keep the present store as a sink meanwhile: it
    knows how far the other sinks were fed.
    """
    settings = read_settings(config)
    after = {"reset_progress": reset_progress}
    _note(settings, Noted("export.adopt", settings.export.required, reason=reason, after=after))
    _on_endpoint(
        settings, lambda client: adopt_store(settings, client, reset_progress=reset_progress)
    )
    out.print(plain(f"{settings.export.required} is the required store now.", "bold green"))


def _note(settings: Settings, noted: Noted) -> None:
    """Write what is about to be done into the audit log."""
    on_backend(settings, lambda backend: record(backend, noted), need_store=False)


async def _run(settings: Settings) -> Tally:
    os.umask(UMASK)
    with open_endpoint(settings) as endpoint:
        client = endpoint.client(name="creditgate-exporter", max_connections=128)
        try:
            # More than one may run on a machine, so each is a separate member.
            name = f"{member(settings)}-{os.getpid()}"
            exporter = assemble_exporter(settings, client, RedisRunner(client), name)
            repairer = assemble_repairer(settings, client, exporter)
            return await _run_both(exporter, repairer, settings.listen.drain_grace_ms / 1000)
        finally:
            await client.aclose()


async def _run_both(exporter: Exporter, repairer: Repairer | None, grace_s: float) -> Tally:
    repairing = asyncio.create_task(repairer.run()) if repairer is not None else None
    try:
        return await run_exporter(exporter, grace_s=grace_s)
    finally:
        if repairer is not None and repairing is not None:
            repairer.stop()
            await asyncio.wait([repairing], timeout=grace_s)
            await end_tasks([repairing])


def _on_endpoint(settings: Settings, work: Callable[[object], Awaitable[T]]) -> T:
    async def connected() -> T:
        with open_endpoint(settings) as endpoint:
            client = endpoint.client(name="creditgate-cli")
            try:
                return await work(client)
            finally:
                await client.aclose()

    with explained():
        return asyncio.run(connected())


def _read_place(text: str) -> tuple[int, Place]:
    try:
        shard, _, place = text.partition(":")
        epoch, _, seq = place.partition("-")
        return int(shard), Place(int(epoch), int(seq))
    except ValueError:
        raise fail(f"{text!r} is no place; write SHARD:EPOCH-SEQ, such as 12:1-5000") from None


def _print_status(found: ExportStatus, now_ms: int) -> None:
    out.print(plain(f"Required store: {found.recorded_store or 'not recorded yet'}."))
    if found.unreadable is not None:
        out.print(
            plain(f"{found.unreadable}. Lag is what the ledger has not seen stored.", "bold red")
        )
    if found.oldest_ms is None:
        out.print(plain("Every event is in the store."))
    else:
        age = max(0, now_ms - found.oldest_ms) / 1000
        out.print(plain(f"The oldest undelivered event is {age:,.1f} s old."))
    if found.full_in_hours is not None:
        style = "bold red" if found.full_in_hours < 24 else ""
        text = f"At this rate requests are refused in {found.full_in_hours:,.1f} hours."
        out.print(plain(text, style))
    sinks = table("sink", "", "lag", "dead letters", right=("lag", "dead letters"))
    for sink in found.sinks:
        cells = (sink.name, "required" if sink.required else "", sink.lag_events, sink.dead_letters)
        row(sinks, cells, "red" if sink.dead_letters else None)
    out.print(sinks)
    if not found.exporters:
        out.print(plain("Nobody exports.", "bold red"))
        return
    exporters = table("exporter", "shards", "renews within", right=("shards", "renews within"))
    for each in found.exporters:
        row(exporters, (each.name, each.shards, f"{each.expires_in_ms / 1000:.1f} s"))
    out.print(exporters)
