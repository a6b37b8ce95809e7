"""`audit`: who changed what, and why."""

from typing import Annotated

import typer

from gateway.app.stores import store_access
from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, explained, read_settings
from gateway.cli.output import AsJson, moment, out, plain, print_json, row, table
from gateway.cli.periods import Since, Until, period_ms
from gateway.domain.money import format_amount
from gateway.operations.audit import (
    PAGE_MOST,
    AuditEntry,
    AuditFilter,
    audit_document,
    list_audit,
)


@app.command()
def audit(
    since: Since = "30d",
    until: Until = None,
    actor: Annotated[
        str | None, typer.Option(metavar="KIND:NAME", help="Only by them, such as command:root.")
    ] = None,
    action: Annotated[
        str | None,
        typer.Option(help="Only this action, or all of one resource: key.revoke, or key."),
    ] = None,
    customer: Annotated[str | None, typer.Option(help="Only changes of this customer.")] = None,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, max=PAGE_MOST, help="How many at most.")
    ] = 100,
    cursor: Annotated[
        str | None, typer.Option(help="Continue where an earlier page of --json ended.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List changes: who made them, what, when and why; the newest first."""
    wanted = AuditFilter(*period_ms(since, until), actor, action, customer, cursor, count)
    with explained(), store_access(read_settings(config)).open_or_empty() as store:
        page = list_audit(store, wanted)
    if as_json:
        print_json(
            {"entries": [audit_document(each) for each in page.entries], "cursor": page.cursor}
        )
        return
    columns = ("time", "actor", "action", "customer", "subject", "what", "reason")
    shown = table(*columns, whole=("actor", "action"))
    for each in page.entries:
        cells = (
            moment(each.occurred_at_ms),
            each.actor,
            each.action,
            each.customer_id,
            each.subject if each.subject != each.customer_id else "",
            _what(each),
            each.reason,
        )
        row(shown, cells, "red" if each.outcome != "made" else None)
    out.print(shown)
    if page.cursor is not None:
        out.print(plain(f"There are more: --cursor {page.cursor}"), soft_wrap=True)


def _what(entry: AuditEntry) -> str:
    if entry.outcome != "made":
        return f"{entry.outcome}: {entry.error}"
    if entry.amount_nano is not None:
        return format_amount(entry.amount_nano)
    before, after = entry.before or {}, entry.after or {}
    parts = []
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if old != new:
            parts.append(f"{name} {new}" if old is None else f"{name} {old} → {new}")
    return ", ".join(parts)
