"""`rerate`: charge past requests at another price, by one adjustment per event."""

import csv
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_ledger
from gateway.cli.output import AsJson, err, out, plain, print_json, progress, row, table
from gateway.cli.parameters import moment_ms
from gateway.domain.money import format_amount
from gateway.operations.backend import Backend
from gateway.operations.statements.rerate import (
    RERATED_COLUMNS,
    Rerated,
    RerateRequest,
    rerate,
    rerated_document,
)


class _Sums:
    """What a run comes to, by customer."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.paid_nano: dict[str, int] = defaultdict(int)
        self.would_nano: dict[str, int] = defaultdict(int)
        self.change_nano: dict[str, int] = defaultdict(int)

    def add(self, each: Rerated) -> None:
        """Add one request."""
        name = each.customer_id
        self.counts[name][each.status] += 1
        self.paid_nano[name] += each.paid_nano
        self.would_nano[name] += each.would_nano
        self.change_nano[name] += each.change_nano


@app.command("rerate")
def rerate_command(
    model: Annotated[str, typer.Option(help="The model whose requests to re-rate.")],
    since: Annotated[
        str, typer.Option("--from", metavar="WHEN", help="Requests that came from then on.")
    ],
    until: Annotated[
        str, typer.Option("--to", metavar="WHEN", help="And before then: 2027-02-01T00:00:00Z.")
    ],
    price_version: Annotated[
        str,
        typer.Option(help="The price to charge, as `prices show --json` and events name it."),
    ],
    customer: Annotated[str | None, typer.Option(help="Only this customer's.")] = None,
    apply: Annotated[
        bool,
        typer.Option("--apply/--dry-run", help="Make the adjustments, or only show them."),
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write each request to this file, as CSV."),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Charge past requests at another price: one adjustment per event, made once.

    Without --apply nothing is changed. A run that was interrupted is repeated: what it had adjusted
    is not adjusted again.
    """
    since_ms, until_ms = moment_ms(since), moment_ms(until)
    if since_ms >= until_ms:
        raise typer.BadParameter("--to is not after --from")
    request = RerateRequest(model, price_version, since_ms, until_ms, customer, apply)
    sums = _Sums()

    async def work(backend: Backend) -> None:
        with ExitStack() as stack:
            report = stack.enter_context(progress(shown=err.is_terminal and not as_json))
            write = None
            if file is not None:
                opened = stack.enter_context(file.open("w", newline=""))
                write = csv.DictWriter(opened, RERATED_COLUMNS)
                write.writeheader()

            def took(each: Rerated) -> None:
                sums.add(each)
                if write is not None:
                    write.writerow(rerated_document(each, price_version))

            await rerate(backend, request, took, report)

    on_ledger(config, work)
    if as_json:
        print_json(_document(sums, apply=apply))
    else:
        _print(sums, apply=apply)


def _document(sums: _Sums, *, apply: bool) -> dict[str, object]:
    return {
        "applied": apply,
        "customers": [
            {
                "customer_id": name,
                "requests": dict(counts),
                "paid": format_amount(sums.paid_nano[name]),
                "would_be": format_amount(sums.would_nano[name]),
                "change": format_amount(sums.change_nano[name]),
            }
            for name, counts in sorted(sums.counts.items())
        ],
        "change": format_amount(sum(sums.change_nano.values())),
    }


def _print(sums: _Sums, *, apply: bool) -> None:
    numbers = ("requests", "paid", "would be", "balance changes by")
    made = table("customer", *numbers, "status", right=numbers)
    for name, counts in sorted(sums.counts.items()):
        amounts = (sums.paid_nano[name], sums.would_nano[name], sums.change_nano[name])
        status = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        row(made, (name, sum(counts.values()), *map(format_amount, amounts), status))
    out.print(made)
    if not sums.counts:
        out.print(plain("No request of this model came in this time."))
    elif not apply:
        out.print(plain("Nothing was changed. `--apply` makes these adjustments.", "yellow"))
