"""`check --live`: what the ledger would say to a configuration. Changes nothing."""

from dataclasses import dataclass
from typing import Any

from gateway.app.asking import Asked, ask_ledger
from gateway.app.backend import open_backend
from gateway.app.ledger_server import LEDGER_FOLDER
from gateway.cli.output import out, plain
from gateway.cli.pending import print_pending
from gateway.operations.price_changes import PendingPrices, changes_document, named_prices
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class LiveAnswer:
    """The ledger's answer. pending: the prices that wait to be applied; None for none"""

    asked: Asked
    pending: PendingPrices | None = None

    def document(self) -> dict[str, Any]:
        """The answer as a JSON document."""
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
                "changes": changes_document(self.pending),
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
        elif self.pending is not None:
            print_pending(self.pending)
        else:
            word = "scheduled" if prices.state == "scheduled" else "in force"
            out.print(f"The prices are {word} (book {prices.number}).")


async def ask_live(settings: Settings) -> LiveAnswer:
    """Ask the ledger of these settings. Raises what `open_backend` raises, and Conflict."""
    if settings.redis.embedded and not (settings.data_dir / LEDGER_FOLDER).is_dir():
        # Starting its server would create it.
        return LiveAnswer(Asked({}, frozenset(), (), None, ()))
    async with open_backend(settings, create=False) as backend:
        asked = await ask_ledger(settings, backend.accounts)
        prices = asked.prices
        if prices is None or prices.state != "pending":
            return LiveAnswer(asked)
        return LiveAnswer(asked, await named_prices(backend, settings.price_draft(), prices))
