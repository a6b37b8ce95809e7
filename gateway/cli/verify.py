"""`verify`: check that ledger, outbox, store and sinks agree to the last unit."""

import asyncio
from collections.abc import Callable
from typing import Annotated

import typer

from gateway.app.stores import find_sink, readable_sinks, store_access
from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, explained, on_backend, read_settings
from gateway.cli.output import AsJson, err, moment, out, plain, print_json, progress, row, table
from gateway.exporter.replay import replay
from gateway.operations.backend import Backend
from gateway.operations.compare_stores import SinkComparison, compare_stores, missing_rows
from gateway.operations.documents import comparison_document, verified_document
from gateway.operations.drifts import Verified
from gateway.operations.verify import verify
from gateway.settings import Settings

Report = Callable[[str, int, int], None]


@app.command(name="verify")
def verify_command(
    repair: Annotated[
        bool, typer.Option("--repair", help="Send to each sink the events that it lacks.")
    ] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Check every wallet, every shard, the store and the sinks, on a live system too; exit 1 on drift.

    Sinks are compared with the store where they can be read back: SQLite, Postgres, ClickHouse.
    """
    settings = read_settings(config)

    async def work(backend: Backend) -> Verified:
        return await verify(backend.audit, backend.outbox, backend.store, report)

    with progress(shown=err.is_terminal and not as_json) as report:
        verified = on_backend(settings, work)
    if not as_json:
        _print(verified)  # at once: a sink that cannot be read ends the command
    with progress(shown=err.is_terminal and not as_json) as report, explained():
        compared = _compare_sinks(settings, report, repair=repair)
    if as_json:
        sinks = [comparison_document(each) for each in compared]
        clean = verified.clean and all(each.clean for each in compared)
        print_json({**verified_document(verified), "clean": clean, "sinks": sinks})
    else:
        for each in compared:
            _print_sink(each)
    if not (verified.clean and all(each.clean for each in compared)):
        raise typer.Exit(1)


def _compare_sinks(settings: Settings, report: Report, *, repair: bool) -> list[SinkComparison]:
    compared = []
    for name, access in readable_sinks(settings).items():
        with store_access(settings).open_or_empty() as store:
            if not store.sink_cursors(name):
                continue  # nothing has been sent to it yet
            with access.open() as sink:
                found = compare_stores(name, store, sink, report)
                if repair and found.missing:
                    target, rows = find_sink(settings, name), missing_rows(name, store, sink)
                    done = asyncio.run(
                        replay(name, target, rows, lambda sent: report("sent again", sent, 0))
                    )
                    err.print(plain(f"{name}: {done.stored} events sent again"))
                    with access.open() as again:
                        found = compare_stores(name, store, again, report)
            compared.append(found)
    return compared


def _print(verified: Verified) -> None:
    checked = (
        f"{verified.wallets} wallets, {verified.holds} open holds, {verified.ended} reservations"
        f" ended within the hour, {verified.events_stored} events in the store,"
        f" {verified.events_in_outbox} on their way"
    )
    out.print(plain(checked))
    if verified.clean:
        out.print(plain("No drift.", "bold green"))
        return
    drifts = table("identity", "where", "what")
    for drift in verified.drifts:
        row(drifts, (drift.identity, drift.subject, drift.message))
    out.print(drifts)
    out.print(plain(f"{len(verified.drifts)} drifts.", "bold red"))


def _print_sink(found: SinkComparison) -> None:
    if found.clean:
        out.print(plain(f"{found.sink} has all {found.compared} events.", "bold green"))
        return
    given_up = f" ({found.given_up} of them given up as dead letters)" if found.given_up else ""
    text = (
        f"{found.sink}: of {found.compared} events {found.missing} are missing{given_up},"
        f" {found.different} differ, {found.extra} are not in the store; shards"
        f" {', '.join(map(str, found.shards))}"
    )
    out.print(plain(text, "bold red"))
    if found.since_ms is not None:
        out.print(plain(f"The first is of {moment(found.since_ms)}. For example:"))
    for event_id in found.examples:
        out.print(plain(f"  {event_id}"))
