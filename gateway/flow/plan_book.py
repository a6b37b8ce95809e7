"""Keeps plans across requests whose heads differ: a trace id or an Idempotency-Key makes a new head."""

from typing import Final

from gateway.domain.reservation import Account
from gateway.flow.authentication import Accounts
from gateway.flow.catalog import Catalog, Route
from gateway.flow.plan import Plan

MOST_ACCOUNTS: Final = 4096
MOST_NAMES: Final = 64

Plans = dict[str, Plan]
"""By the name of the model as clients write it."""


class PlanBook:
    """The plans of one configuration, by account and route. A full book starts over."""

    def __init__(self) -> None:
        self._of: tuple[Catalog | None, Accounts | None] = (None, None)
        self._plans: dict[tuple[object, ...], Plans] = {}

    def plans(self, catalog: Catalog, accounts: Accounts, account: Account, route: Route) -> Plans:
        """The plans of this account at this route, to be added to. Within one configuration the ids and
        the revision say what an account is."""
        if self._of[0] is not catalog or self._of[1] is not accounts:
            self._of = catalog, accounts
            self._plans = {}
        whose = (account.customer_id, account.key_id, account.project_id, account.account_rev)
        key = (*whose, id(route))  # the catalog keeps its routes, so that their ids stay theirs
        kept = self._plans.get(key)
        if kept is None or len(kept) >= MOST_NAMES:
            if len(self._plans) >= MOST_ACCOUNTS:
                self._plans.clear()
            kept = self._plans[key] = {}
        return kept
