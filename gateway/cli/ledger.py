"""`ledger`: whether the ledger can serve, and reopening shards that have lost entries."""

from typing import Annotated

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_ledger
from gateway.cli.output import AsJson, err, moment, out, plain, print_json, progress, row, table
from gateway.cli.parameters import Reason
from gateway.operations.backend import Backend
from gateway.operations.repair_shards import Repaired, repair_shards, repaired_document
from gateway.operations.shards import (
    LedgerReport,
    places,
    report_document,
    report_ledger,
    seen,
)

ledger = typer.Typer(help="Whether the ledger can serve, and how to repair it.")
app.add_typer(ledger, name="ledger", no_args_is_help=True)

KEYS_NOTE = (
    "API keys are not in the store: keys created with `creditgate key create` after the backup that"
    " the ledger was restored from must be created again."
)
HOW = (
    "The exporter repairs them by itself, unless `redis.repair` is `manual`; its log says how it goes."
    " `creditgate ledger reopen` does it at once."
)


@ledger.command()
def status(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show whether the server can hold the ledger, which shards have lost entries, and which wallets repairs
    have frozen; exit 1 while a node cannot serve, or a shard or a wallet is shut."""

    report = on_ledger(config, report_ledger)
    if as_json:
        print_json(report_document(report))
    else:
        _print_report(report)
    if not report.well:
        raise typer.Exit(1)


@ledger.command(name="reopen")
def reopen_command(
    shard: Annotated[
        int | None, typer.Option(min=0, help="This shard; without it all that have lost entries.")
    ] = None,
    accept_loss: Annotated[
        bool, typer.Option(help="Open a shard although some events could not be replayed.")
    ] = False,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Replay from the store what a shard has lost, open it, and verify. Exit 1 unless all is well.

    Gates may run meanwhile, and the command may be repeated after any failure. Balances and grants
    become what the store's events say. Events that cannot be replayed are named by id.
    """

    async def work(backend: Backend) -> Repaired:
        with progress(shown=err.is_terminal and not as_json) as report:
            return await repair_shards(
                backend, shard, report, accept_loss=accept_loss, reason=reason
            )

    repaired = on_ledger(config, work)
    if as_json:
        print_json(repaired_document(repaired))
    else:
        _print_repaired(repaired)
    if not repaired.clean:
        raise typer.Exit(1)


def _print_report(report: LedgerReport) -> None:
    if report.trouble:
        out.print(plain(f"Nothing is admitted: {report.trouble}.", "bold red"))
    for reason, shards in report.away.items():
        names = ", ".join(map(str, shards))
        said = f"{len(shards)} shards cannot be asked ({names}): {reason.rstrip('.')}."
        out.print(plain(said, "bold red"))
    for node, sentence in report.nodes.items():
        said = f"The node {node} refuses its customers: {sentence.rstrip('.')}."
        out.print(plain(said, "bold red"))
    if report.shut:
        _print_shut(report)
    elif report.away:
        out.print(plain("No other shard is shut."))
    else:
        out.print(plain(f"{len(report.shards)} shards, none is shut."))
    for shard, loss in report.lost.items():
        said = f"Shard {shard} lost the entries {loss.lost}: found by the repair that began epoch"
        out.print(plain(f"{said} {loss.epoch}, {moment(loss.at_ms)}.", "yellow"))
    if report.wallets:
        shown = table("wallet", "shard", "why it is shut", whole=("wallet",))
        for each in report.wallets:
            row(shown, (each.customer_id, each.shard, each.reason), "red")
        out.print(shown)
        out.print(plain("`creditgate wallet thaw ID` opens a wallet again.", "bold red"))


def _print_shut(report: LedgerReport) -> None:
    columns = ("shard", "state", "its last entry", "the store's last", "last seen", "lost")
    shown = table(*columns, right=("lost",))
    for each in report.shut:
        cells = (each.number, each.state, *places(each), seen(report.losses.get(each.number)))
        row(shown, (*cells, each.lost), "red")
    out.print(shown)
    said = f"{len(report.shut)} of {len(report.shards)} shards are shut. {HOW}"
    out.print(plain(said, "bold red"))


def _print_repaired(repaired: Repaired) -> None:
    if not repaired.shards:
        out.print(plain("No shard has lost entries; nothing was changed."))
    for shard in repaired.shards:
        said = f"Shard {shard.number}: {shard.applied} events replayed, {shard.kept} kept"
        ends = "still shut." if shard.epoch is None else f"open in epoch {shard.epoch}."
        out.print(plain(f"{said}; {ends}", "yellow" if shard.epoch is None else "bold green"))
        if shard.lost is not None:
            said = f"  lost: {shard.lost}; gates had seen these entries, and they are nowhere"
            out.print(plain(said, "yellow"))
        for each in shard.not_applied:
            out.print(plain(f"  not replayed: {each.event_id}: {each.reason}", "red"))
        if shard.not_applied and shard.epoch is None:
            out.print(plain("  To open it without these: `--accept-loss`.", "yellow"))
        for event_id in shard.assumed:
            said = f"  {event_id}: its terms are not recorded; check priority, groups and expiry"
            out.print(plain(said, "yellow"))
        if shard.uncounted:
            names = ", ".join(sorted(shard.uncounted))
            said = f"  limits, tiers and included units do not count what was replayed for: {names}"
            out.print(plain(said, "yellow"))
    if repaired.not_written:
        said = f"The configuration's customers were not written: {repaired.not_written}"
        out.print(plain(said, "red"))
    if repaired.shards:
        out.print(plain(KEYS_NOTE))
    verified = repaired.verified
    if verified.clean:
        out.print(plain("Verified: no drift.", "bold green"))
    else:
        said = f"{len(verified.drifts)} drifts: see `creditgate verify`."
        out.print(plain(said, "bold red"))
