"""Which customers the gate enforces, and how that changes while gates run.

A mode comes from the configuration, or from an operator who has set one for everything or for one
customer. What an operator has set counts more than the configuration, and one customer more than
everything: so a switch of everything to `bypass` also reaches customers whose mode is configured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, get_args

from gateway.domain.customers import Mode, owner_of

MODES: Final[tuple[Mode, ...]] = get_args(Mode)
CONFIGURED: Final = "configured"
"""The switch of a mode that the configuration has."""


@dataclass(frozen=True, slots=True)
class SetMode:
    """A mode that an operator has set.

    switch:   unique id of this change: a shadow wallet is opened once for each
    since_ms: when it was set, Unix ms by the ledger's clock
    actor:    who set it, as `Actor` shows it
    """

    mode: Mode
    switch: str
    since_ms: int
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Modes:
    """The modes in force. Never changed: another value replaces it, and is compared by identity.

    everything, customers: as configured
    set_everything, set_customers: as operators have set them
    """

    everything: Mode = "enforce"
    customers: Mapping[str, Mode] = field(default_factory=dict)
    set_everything: SetMode | None = None
    set_customers: Mapping[str, SetMode] = field(default_factory=dict)

    def of(self, account_id: str) -> tuple[Mode, str]:
        """The mode of an account's customer, and the switch that it comes from."""
        customer_id = owner_of(account_id)
        found = self.set_customers.get(customer_id, self.set_everything)
        if found is not None:
            return found.mode, found.switch
        return self.customers.get(customer_id, self.everything), CONFIGURED

    @property
    def of_everything(self) -> Mode:
        """The mode of customers that have none of their own."""
        return self.everything if self.set_everything is None else self.set_everything.mode

    @property
    def enforces(self) -> bool:
        """Whether any customer is enforced, so that requests need the ledger."""
        own = {each.mode for each in self.set_customers.values()}
        if self.set_everything is not None:
            return "enforce" in own | {self.set_everything.mode}
        return "enforce" in own | {self.everything, *self.customers.values()}


EVERYTHING_ENFORCED: Final = Modes()
