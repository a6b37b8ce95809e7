"""How pending price changes are shown: one row for each price."""

from gateway.cli.output import out, plain, row, table
from gateway.operations.price_changes import PendingPrices


def print_pending(pending: PendingPrices) -> None:
    """Print the pending changes as a table, and how to activate them."""
    shown = table("whose", "model", "class", "in force", "configured", right=("in force",))
    for change in pending.changes:
        whose = change.customer_id or (f"plan {change.plan}" if change.plan else "")
        before, after = pending.rates(change.before), pending.rates(change.after)
        for unit in dict.fromkeys([*before, *after]):
            if before.get(unit) != after.get(unit):
                row(shown, (whose, change.model, unit, before.get(unit), after.get(unit)))
        if before == after:  # the versions differ by costs alone
            row(shown, (whose, change.model, "costs", change.before, change.after))
    count = len(pending.changes)
    head = f"{count} price{'s' if count != 1 else ''} pending against book {pending.taken.number}:"
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
