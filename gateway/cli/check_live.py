"""`check --live`: what the ledger would say to a configuration. Changes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.app.asking import Asked, ask_ledger
from gateway.app.run import LEDGER_FOLDER
from gateway.cli.context import open_context
from gateway.cli.output import out, plain
from gateway.cli.price_changes import changes_document, read_tables, show_changes
from gateway.domain.pricing import PriceTable
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class LiveAnswer:
    """The ledger's answer. `tables`: the prices that the pending changes name."""

    asked: Asked
    tables: Mapping[str, PriceTable] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The answer for programs."""
        asked = self.asked
        prices = asked.prices
        return {
            "problems": list(asked.problems),
            "kept_grants": [{"customer_id": k.customer_id, "name": k.name} for k in asked.kept],
            "prices": None
            if prices is None
            else {
                "state": prices.state,
                "book": prices.number,
                "changes": changes_document(prices.changes, self.tables),
            },
        }

    def show(self) -> None:
        """Print it."""
        asked = self.asked
        for problem in asked.problems:
            out.print(plain(problem, "red"), soft_wrap=True)
        for kept in asked.kept:
            out.print(plain(kept, "yellow"), soft_wrap=True)
        prices = asked.prices
        if prices is None:
            out.print("The ledger has no price book yet: the first start activates these prices.")
        elif prices.state == "pending":
            show_changes(prices, self.tables)
        else:
            word = "scheduled" if prices.state == "scheduled" else "in force"
            out.print(f"The prices are {word} (book {prices.number}).")


async def ask_live(settings: Settings) -> LiveAnswer:
    """Ask the ledger of these settings. Raises what `open_context` raises."""
    if settings.redis.embedded and not (settings.data_dir / LEDGER_FOLDER).is_dir():
        # Starting its server would create it.
        return LiveAnswer(Asked({}, frozenset(), (), None, ()))
    async with open_context(settings, create=False) as context:
        asked = await ask_ledger(settings, context.accounts)
        changes = asked.prices.changes if asked.prices else ()
        return LiveAnswer(asked, await read_tables(context, settings, changes))
