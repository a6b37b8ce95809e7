"""`import`: customers with their balances and keys, from a CSV file into the ledger."""

import csv
import hashlib
import io
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_ledger
from gateway.cli.files import complete_file
from gateway.cli.output import AsJson, err, fail, out, plain, print_json, progress, row, table
from gateway.cli.parameters import Reason
from gateway.operations.backend import Backend
from gateway.operations.import_check import plan_import
from gateway.operations.import_file import REJECT_COLUMNS, read_import
from gateway.operations.importing import (
    Imported,
    ImportSource,
    apply_import,
    imported_document,
    previewed,
)

SHOWN_MOST = 10
"""Rejected lines that are printed; the file of rejects has them all."""


@app.command(name="import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV with the columns id, plan, balance, category, expiry, key_hash, key_algorithm,"
            " name, email and external.SYSTEM; only id is required.",
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every line; change nothing.")
    ] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Import what can be imported.")] = False,
    rejects: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where rejected lines are written, with their reasons; FILE.rejects.csv if omitted.",
        ),
    ] = None,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Import customers with their balances and the hashes of their keys.

    Importing a file again completes what is missing and credits nothing twice. Exits 1 if a line was
    rejected or a total does not match.
    """
    if dry_run == apply:
        raise typer.BadParameter("name one of --dry-run and --apply")
    rejects = rejects or file.with_suffix(".rejects.csv")
    if rejects.resolve() == file.resolve():
        raise typer.BadParameter("--rejects must not be the file itself")
    text, sha256 = _read(file)

    async def work(backend: Backend) -> Imported:
        algorithm = backend.configured.key_algorithm
        read = read_import(
            io.StringIO(text, newline=""), algorithm, await backend.accounts.now_ms()
        )
        with progress(shown=err.is_terminal) as bar:
            plan = await plan_import(backend, read, bar)
            if dry_run:
                return previewed(plan)
            return await apply_import(backend, plan, ImportSource(file.name, sha256, reason), bar)

    result = on_ledger(config, work)
    if result.rejected:
        _write_rejects(rejects, result)
    document = imported_document(result)
    if as_json:
        print_json({**document, "rejects_file": str(rejects) if result.rejected else None})
    else:
        _show(document, rejects)
    if not result.clean:
        raise typer.Exit(1)


def _read(file: Path) -> tuple[str, str]:
    try:
        data = file.read_bytes()
        return data.decode("utf-8-sig"), hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise fail(f"cannot read {file}: {error.strerror}", 2) from None
    except UnicodeDecodeError:
        raise fail(f"cannot read {file}: it is not UTF-8 text", 2) from None


def _write_rejects(path: Path, result: Imported) -> None:
    with complete_file(path) as binary:
        lines = io.TextIOWrapper(binary, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow((*REJECT_COLUMNS, *result.columns))
        for each in result.rejected:
            cells = (each.cells.get(name, "") for name in result.columns)
            writer.writerow((each.line, each.reason, *cells))
        lines.detach()


def _show(document: dict[str, Any], rejects: Path) -> None:
    applied = document["applied"]
    shown = table("", "customers", "credits", right=["customers", "credits"])
    row(shown, ("imported" if applied else "to import", document["customers"], ""))
    row(shown, ("there already", document["present"], ""))
    row(shown, ("balances in the file", "", document["balances"]))
    if applied:
        row(shown, ("credited in the ledger", "", document["credited"]))
    row(shown, ("rejected", document["rejected"], document["rejected_balances"]))
    out.print(shown)
    if document["plan_grants"] != "0":
        said = "In addition, plans give" if not applied else "In addition, plans gave"
        out.print(plain(f"{said} new customers {document['plan_grants']} credits."))
    for each in document["rejects"][:SHOWN_MOST]:
        err.print(plain(f"line {each['line']}: {each['reason']}", "red"))
    if document["rejected"]:
        err.print(plain(f"{document['rejected']} rejected lines are in {rejects}"))
    if not document["matched"]:
        err.print(
            plain(
                "The ledger does not have the balances of the file: see `creditgate audit`", "red"
            )
        )
