"""What operations work on: the open ledger, the event store, and the configuration as values."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from gateway.domain.actors import Actor
from gateway.domain.customers import CustomerRecord
from gateway.domain.gates import GateReport
from gateway.domain.modes import Modes
from gateway.domain.pricebook import Draft, Price
from gateway.domain.reservation import Account, Key
from gateway.domain.stores import ClosedStatement, EventStore
from gateway.ledger.accounts import AccountStore
from gateway.ledger.audit import Audit
from gateway.ledger.changes import Changes
from gateway.ledger.client.fitness import Trouble
from gateway.ledger.codec.refusals import RefusedRequest
from gateway.ledger.corrections import Corrections
from gateway.ledger.exporters import ExporterList
from gateway.ledger.losses import Losses
from gateway.ledger.notes import Notes
from gateway.ledger.outbox import Outbox
from gateway.ledger.refusals import NotedRefusal
from gateway.ledger.repair import Repair
from gateway.ledger.reservations import Reservations
from gateway.ledger.shadow_wallets import ShadowWallets
from gateway.ledger.wallets import Wallets
from gateway.operations.wallet_terms import WalletTerms


@dataclass(frozen=True, slots=True)
class ConfiguredKey:
    """An API key that a configuration file names."""

    key_id: str
    customer_id: str
    project_id: str | None
    digest: str


@dataclass(frozen=True, slots=True)
class Subscription:
    """A plan's recurring fee. It is billed in addition to usage: no credit moves.

    fee_nano: a month's, in billionths of `unit`
    """

    plan: str
    fee_nano: int
    unit: str


KeyAlgorithm = Literal["sha256", "hmac-sha256"]
"""hmac-sha256: with the pepper of the configuration"""

CustomerRef = str | CustomerRecord
"""A customer: the id of one in the configuration, or the record of one in the ledger."""


class Configured(Protocol):
    """What operations need of the configuration. Nothing is computed before it is asked for."""

    @property
    def customer_ids(self) -> Collection[str]:
        """Every configured customer."""
        ...

    @property
    def plans(self) -> Collection[str]:
        """Names of the plans."""
        ...

    @property
    def models(self) -> Collection[str]:
        """Names of the models that requests may name."""
        ...

    def customer(self, customer_id: str) -> CustomerRecord | None:
        """A configured customer, as if it had a record; None for one that is not configured."""
        ...

    def terms(self, customer: CustomerRef) -> WalletTerms:
        """What a customer's wallet is given. Raises KeyError if its plan is not configured."""
        ...

    def own_price(self, model: str, price: Mapping[str, Any]) -> Price:
        """A price as `customers.NAME.prices` of the configuration takes it. Raises ValueError."""
        ...

    @property
    def model_groups(self) -> Mapping[str, int]:
        """Model groups by name: the number that grants know them by, from 1."""
        ...

    def api_keys(self) -> Sequence[ConfiguredKey]:
        """Every configured API key."""
        ...

    def hash_key(self, secret: str) -> str | None:
        """The hash under which gates look a key up; None where API keys are disabled."""
        ...

    @property
    def key_algorithm(self) -> KeyAlgorithm | None:
        """How gates hash the keys that they are sent; None where API keys are disabled."""
        ...

    def recurring_grants(self, customer: CustomerRef) -> Sequence[str]:
        """Names of the grants that the configuration renews for a customer each period."""
        ...

    def billing_day(self, customer_id: str) -> int | None:
        """The day on which a customer's months begin; None for one that is not configured."""
        ...

    def subscription(self, customer: CustomerRef) -> Subscription | None:
        """The fee of a customer's plan; None where there is none."""
        ...

    def limited_accounts(self, customer: CustomerRef, stored: Sequence[Key]) -> Sequence[Account]:
        """Accounts that together have every limit of a customer: of itself, its models, its
        projects and its keys. stored: its valid keys that no file names. None if it is unknown."""
        ...

    @property
    def modes(self) -> Modes:
        """The configured modes."""
        ...

    @property
    def required_sink(self) -> str:
        """The name of the required store."""
        ...

    @property
    def optional_sinks(self) -> Sequence[str]:
        """The names of the other sinks."""
        ...

    @property
    def max_backlog_events(self) -> int:
        """Undelivered events in one shard above which requests are refused."""
        ...

    def price_draft(self) -> Draft:
        """The configuration's prices. Slow where there are many customers."""
        ...


@dataclass(frozen=True, slots=True)
class Backend:
    """An open ledger and store.

    actor:           on whose behalf changes are made; every one of them says so (`audit.py`)
    losses:          what shards have lost, and the wallets that repairs have frozen
    notes:           writes entries of changes that move no wallet
    wallets, corrections: the verbs that change wallets, and those that correct them
    reservations:    the verbs of holds; `reservations_at(unix_ms)` the same by a fixed clock, for which
                     the windows of limits are packed
    list_exporters:  exporters and the recorded store; ledger_time_ms: the ledger's clock, Unix ms
    list_gates:      what each gate reported last; takes the ledger's clock
    find_refusal:    a refusal that was noted in the last days, by the request's id
    latest_refusals: those of the last days that pass a test, at most so many, the latest first
    find_troubles:   by server, what is wrong with it; None for nothing
    write_customers: writes the configuration's customers into the ledger; returns why it could not
    keep_statement:  see `StoreAccess.keep_statement`
    """

    actor: Actor
    configured: Configured
    accounts: AccountStore
    wallets: Wallets
    corrections: Corrections
    reservations: Reservations
    reservations_at: Callable[[int], Reservations]
    repair: Repair
    audit: Audit
    losses: Losses
    notes: Notes
    outbox: Outbox
    changes: Changes
    store: EventStore
    list_exporters: Callable[[], Awaitable[ExporterList]]
    list_gates: Callable[[int], Awaitable[Sequence[GateReport]]]
    ledger_time_ms: Callable[[], Awaitable[int]]
    find_refusal: Callable[[str], Awaitable[NotedRefusal | None]]
    latest_refusals: Callable[
        [Callable[[RefusedRequest], bool], int], Awaitable[Sequence[NotedRefusal]]
    ]
    find_troubles: Callable[[], Awaitable[Mapping[str, Trouble | None]]]
    write_customers: Callable[[], Awaitable[str | None]]
    keep_statement: Callable[[ClosedStatement], ClosedStatement]
    shadow_wallets: ShadowWallets
