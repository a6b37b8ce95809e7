"""`verify`: check that ledger, outbox and store agree to the last unit."""

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_ledger
from gateway.cli.output import AsJson, err, out, plain, print_json, progress, row, table
from gateway.operations.backend import Backend
from gateway.operations.documents import verified_document
from gateway.operations.drifts import Verified
from gateway.operations.verify import verify


@app.command(name="verify")
def verify_command(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Check the identities of every wallet, shard and the store, on a live system too; exit 1 on drift."""

    async def work(backend: Backend) -> Verified:
        with progress(shown=err.is_terminal and not as_json) as report:
            return await verify(backend.audit, backend.outbox, backend.store, report)

    verified = on_ledger(config, work)
    if as_json:
        print_json(verified_document(verified))
    else:
        _print(verified)
    if not verified.clean:
        raise typer.Exit(1)


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
