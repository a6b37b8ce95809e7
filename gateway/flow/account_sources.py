"""Where accounts come from: what the configuration says of them, and the ledger's directory."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.domain.pricing import PriceTable
from gateway.domain.reservation import Key
from gateway.flow.customers import Customer, PlanTerms
from gateway.ledger.keys import AccountRead


@dataclass(frozen=True, slots=True)
class KnownAccounts:
    """What is known of accounts before the first request.

    customers:   those of the configuration, by id
    keys:        the configured keys, by digest
    revisions:   account_rev by customer id, as the ledger has them now
    plans:       what each plan of the configuration gives customers in the ledger; "" is none
    shard_count: of the ledger
    """

    customers: Mapping[str, Customer]
    keys: Mapping[str, Key]
    revisions: Mapping[str, int]
    plans: Mapping[str, PlanTerms] = field(default_factory=lambda: {"": PlanTerms()})
    shard_count: int = 64


class KeyDirectory(Protocol):
    """The ledger's directory of customers and keys. Every method raises LedgerUnavailable."""

    async def find_key(self, digest: str) -> Key | None:
        """The key with this hash, None when unknown or revoked."""
        ...

    async def account_rev(self, account_id: str) -> int | None:
        """The account's present revision."""
        ...

    async def read_account(self, customer_id: str, account_id: str, digest: str) -> AccountRead:
        """A wallet's revision, then its customer's record and a key of it ("" for none)."""
        ...

    async def price_tables(self, versions: Iterable[str]) -> Mapping[str, PriceTable]:
        """The prices of these versions; those that are not kept are left out."""
        ...
