"""A billed party that operators create while gates run, as the ledger keeps it.

A customer has up to three wallets, each an account of the ledger: the live one under the customer's id,
one for test keys and one for shadow mode. The marks that tell them apart cannot occur in an id.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from gateway.domain.limits import Limit

Mode = Literal["bypass", "shadow", "enforce"]
"""bypass: forward without asking the ledger. shadow: decide and debit a wallet that nobody is billed for,
and forward in any case. enforce: refuse what cannot be paid."""

CustomerStatus = Literal["active", "suspended", "deleted"]
Purpose = Literal["live", "test", "shadow"]

_MARKS: Final[Mapping[Purpose, str]] = {"live": "", "test": "~test", "shadow": "~shadow"}


@dataclass(frozen=True, slots=True)
class CustomerRecord:
    """What the ledger keeps of a customer besides money. Times in Unix ms.

    plan:             name of a plan of the configuration
    name, email:      personal data: erased when the customer is deleted
    external_ids:     ids in other systems, such as {"stripe": "cus_…"}; erased as well
    credit_limit_nano, billing_day, models: None is the plan's
    limits, projects: in addition to the plan's; one of the same scope, measure and window replaces it
    prices:           model → price_version that replaces the plan's and the model's price
    terms_digest:     of the plan's terms that were written into the wallet last
    """

    customer_id: str
    created_at_ms: int
    plan: str | None = None
    status: CustomerStatus = "active"
    name: str | None = None
    email: str | None = None
    external_ids: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    credit_limit_nano: int | None = None
    billing_day: int | None = None
    models: frozenset[str] | None = None
    limits: tuple[Limit, ...] = ()
    projects: Mapping[str, tuple[Limit, ...]] = field(default_factory=dict)
    prices: Mapping[str, str] = field(default_factory=dict)
    terms_digest: str = ""


def wallet_id(customer_id: str, purpose: Purpose) -> str:
    """The account that a customer's requests of this purpose are charged to."""
    return customer_id + _MARKS[purpose]


def customer_of(account_id: str) -> tuple[str, Purpose]:
    """Whose account this is, and for which purpose."""
    for purpose, mark in _MARKS.items():
        if mark and account_id.endswith(mark):
            return account_id.removesuffix(mark), purpose
    return account_id, "live"


def is_shadow(account_id: str) -> bool:
    """Whether this is a shadow wallet, which nobody is billed for."""
    return account_id.endswith(_MARKS["shadow"])


def owner_of(account_id: str) -> str:
    """The customer that an account belongs to; a test wallet in shadow mode has its own shadow."""
    customer_id, purpose = customer_of(account_id)
    while purpose != "live":
        customer_id, purpose = customer_of(customer_id)
    return customer_id
