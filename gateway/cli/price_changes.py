"""How a configuration's prices differ from the price book in force: one row for each price."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.cli.context import Context
from gateway.cli.lines import rate_text
from gateway.cli.output import fail, out, plain, row, table
from gateway.domain.pricebook import PriceChange
from gateway.domain.pricing import PriceTable
from gateway.ledger.pricebook import Taken, UnreadablePrice
from gateway.settings import Settings


async def read_tables(
    context: Context, settings: Settings, changes: Sequence[PriceChange]
) -> dict[str, PriceTable]:
    """The prices that the changes name, by version. Raises typer.Exit, LedgerUnavailable."""
    own = settings.price_draft().tables()
    versions = {v for change in changes for v in (change.before, change.after) if v is not None}
    try:
        return {**own, **await context.accounts.price_books().tables(versions - own.keys())}
    except UnreadablePrice as error:
        raise fail(str(error)) from None


def changes_document(
    changes: Sequence[PriceChange], tables: Mapping[str, PriceTable]
) -> list[dict[str, Any]]:
    """The changes for programs."""
    return [
        {
            "model": change.model,
            "plan": change.plan,
            "customer_id": change.customer_id,
            "before": _document(change.before, tables),
            "after": _document(change.after, tables),
        }
        for change in changes
    ]


def show_changes(taken: Taken, tables: Mapping[str, PriceTable]) -> None:
    """Print the pending changes as a table, and how to activate them."""
    shown = table("whose", "model", "class", "in force", "configured", right=("in force",))
    for change in taken.changes:
        whose = change.customer_id or (f"plan {change.plan}" if change.plan else "")
        before, after = _rates(change.before, tables), _rates(change.after, tables)
        for unit in dict.fromkeys([*before, *after]):
            if before.get(unit) != after.get(unit):
                row(shown, (whose, change.model, unit, before.get(unit), after.get(unit)))
        if before == after:  # the versions differ by costs alone
            row(shown, (whose, change.model, "costs", change.before, change.after))
    count = len(taken.changes)
    head = f"{count} price{'s' if count != 1 else ''} pending against book {taken.number}:"
    out.print(plain(head, "bold yellow"))
    out.print(shown)
    out.print(
        plain(
            "Customers pay what is in force. `creditgate prices plan` shows what the change would"
            " cost them; `creditgate prices apply` activates it.",
            "yellow",
        ),
        soft_wrap=True,
    )


def _rates(version: str | None, tables: Mapping[str, PriceTable]) -> dict[str, str]:
    """What a price says of each class."""
    if version is None or version not in tables:
        return {}
    return {unit: rate_text(rate) for unit, rate in tables[version].rates.items()}


def _document(version: str | None, tables: Mapping[str, PriceTable]) -> dict[str, Any] | None:
    if version is None:
        return None
    return {"price_version": version, "prices": _rates(version, tables)}
