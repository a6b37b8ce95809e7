"""Who is asking: from an API key, or from the header of a gateway that has authenticated already.

Keys are known by their SHA-256 (or HMAC-SHA-256 with a pepper) alone. Customers and keys of the
configuration are in memory; those made by operators while gates run are looked up in the ledger and
cached. A key whose customer is not configured costs one round trip for the key, and one for the wallet's
revision, the customer's record and the key together.

Invariants: an account is valid while its revision is the ledger's. A revoked key or a changed customer
raises the revision, so the next reserve answers `stale_account` and `refresh` reads both again.
Hence the revision is always read before the key: a key that is revoked in between is stale.
Where no reserve follows, nothing would notice: there what the ledger says is not cached.
"""

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

import structlog

from gateway.domain.customers import CustomerRecord, customer_of
from gateway.domain.key_terms import Restrictions
from gateway.domain.pricing import PriceTable
from gateway.domain.reservation import Account, Key, shard_of
from gateway.flow.account_sources import KeyDirectory, KnownAccounts
from gateway.flow.credentials import TrustedHeader, credential, key_digest, told
from gateway.flow.customers import Customer, account_of, customer_of_record
from gateway.flow.lru import Lru
from gateway.flow.refusals import Particulars, Refused
from gateway.http.interface import Exchange
from gateway.ledger.client.errors import LedgerUnavailable

log = structlog.get_logger("accounts")

UNKNOWN_TTL_S: Final = 2.0
MAX_UNKNOWN: Final = 10_000
MAX_LOOKED_UP: Final = 100_000
"""Accounts of keys that were looked up in the ledger; as many revisions are kept."""
MAX_VOUCHED: Final = 10_000
_PEERS_REMEMBERED: Final = 4096

_UNKNOWN_KEY: Final = "This API key is not known here. Check it, or create one."
_UNKNOWN_CUSTOMER: Final = "The customer that the gateway in front named is not known here."


def check_restrictions(restrictions: Restrictions, remote: str) -> None:
    """Refuse a key that has expired, or is used from elsewhere. Raises Refused(bad_key)."""
    expires_at_ms = restrictions.expires_at_ms
    if expires_at_ms is not None and time.time_ns() // 1_000_000 >= expires_at_ms:
        raise Refused(
            "bad_key", "This API key has expired. Create one.", Particulars(reason="key_expired")
        )
    if not restrictions.permits(remote):
        raise Refused(
            "bad_key",
            "This API key may not be used from this address.",
            Particulars(reason="key_network"),
        )


class Accounts:
    """Resolves requests to accounts."""

    def __init__(
        self,
        known: KnownAccounts,
        directory: KeyDirectory,
        *,
        pepper: bytes = b"",
        trusted: TrustedHeader | None = None,
    ) -> None:
        self._customers = known.customers
        self._configured = known.keys
        self._plans = known.plans
        self._shard_count = known.shard_count
        self._revisions = dict(known.revisions)
        self.revision = 0
        """Rises whenever the revision of any account does: what was concluded about accounts before
        must be concluded again."""
        self._directory = directory
        self._digest = key_digest(pepper)
        self._trusted = trusted
        self.trusts_headers = trusted is not None
        """Whether some peers may name the customer by a header."""
        self.trusts: Callable[[str], bool] = lambda _: False
        """Whether the peer at this address may."""
        if trusted is not None:
            self.trusts = lru_cache(_PEERS_REMEMBERED)(trusted.trusts)
        self._looked_up: Lru[str, Account] = Lru(MAX_LOOKED_UP)
        self._read_revisions: Lru[str, int] = Lru(MAX_LOOKED_UP)
        """Of accounts that are not configured."""
        self._accounts = {digest: self._account(key) for digest, key in known.keys.items()}
        self._unknown: Lru[str, float] = Lru(MAX_UNKNOWN)
        self._vouched: Lru[tuple[str, str, str | None], Account] = Lru(MAX_VOUCHED)

    async def authenticate(
        self, exchange: Exchange, *, reserves: bool = True, query_key: bool = False
    ) -> Account:
        """The account of a request. Raises Refused(bad_key), LedgerUnavailable.

        reserves:  a reservation follows, which notices an account that is not valid any more
        query_key: the key may be the query's `key`
        """
        if self.trusts_headers and self.trusts(exchange.remote):
            vouched = await self._vouched_for(exchange, reserves)
            if vouched is not None:
                return vouched
        digest = self._digest(credential(exchange, query_key=query_key))
        account = self._accounts.get(digest)
        if account is not None:
            if self.is_current(account):
                return account
            account = self._accounts[digest] = self._account(self._configured[digest])
            return account
        account = self._looked_up.get(digest)
        if account is not None and reserves and self.is_current(account):
            return account
        return await self._look_up(digest, account)

    def is_current(self, account: Account) -> bool:
        """Whether this is the latest revision of the account that is known here."""
        return account.account_rev == self._known_revision(account.customer_id)

    async def refresh(
        self, account: Account, exchange: Exchange, *, query_key: bool = False
    ) -> Account:
        """Reread the customer and the key after `stale_account`. Raises Refused(bad_key), and
        LedgerUnavailable where the ledger has lost the account."""
        account_id = account.customer_id
        # It is higher when another request has asked since.
        if self._known_revision(account_id) == account.account_rev:
            revision = await self._directory.account_rev(account_id)
            if revision is None:
                # It was there, so the key is right: it is the ledger that has lost the wallet.
                raise LedgerUnavailable(f"the ledger has no wallet of the customer {account_id}")
            self.note_revision(account_id, revision)
        return await self.authenticate(exchange, query_key=query_key)

    def digest_of(self, key: str) -> str:
        """The hash by which a key is known here."""
        return self._digest(key)

    async def of_key(self, digest: str, remote: str) -> Account:
        """The account of a key by its hash, as it is now, used from this address. Raises
        Refused(bad_key), LedgerUnavailable."""
        configured = self._configured.get(digest)
        if configured is not None:
            return self._account(configured)
        account = await self._look_up(digest, None)
        if account.restrictions is not None:
            check_restrictions(account.restrictions, remote)
        return account

    async def of_customer(self, customer_id: str) -> Account | None:
        """The account of a customer without a key; None for one that is not known. Raises
        LedgerUnavailable."""
        key = Key(key_id="", customer_id=customer_id)
        return self._account(key) if customer_id in self._customers else await self._read(key, "")

    def forget(self, account_id: str) -> None:
        """Read an account of the ledger again before it is used: it was announced to have changed."""
        if self._read_revisions.pop(account_id) is not None:
            self.revision += 1

    async def _look_up(self, digest: str, known: Account | None) -> Account:
        """The account of a key that only the ledger can know. Raises Refused(bad_key).

        known: what it was when it was looked up before
        """
        now = time.monotonic()
        if (self._unknown.get(digest) or 0.0) <= now:
            account = None
            if known is not None:
                customer_id, purpose = customer_of(known.customer_id)
                key = Key(known.key_id, customer_id, test=purpose == "test")
                account = await self._read(key, digest)
            if account is None:
                account = await self._find(digest)
            if account is not None:
                self._looked_up.put(digest, account)
                return account
            self._looked_up.pop(digest)
            self._unknown.put(digest, now + UNKNOWN_TTL_S)
        raise Refused("bad_key", _UNKNOWN_KEY)

    async def _find(self, digest: str) -> Account | None:
        key = await self._directory.find_key(digest)
        return None if key is None else await self._read(key, digest)

    async def _read(self, key: Key, digest: str) -> Account | None:
        """The account of a key, or of a customer that was named ("" for the digest), as it is now."""
        account_id = key.account_id
        found = await self._directory.read_account(key.customer_id, account_id, digest)
        revision = found.account_rev or 0
        self.note_revision(account_id, revision)
        now = found.key if digest else key
        customer = self._customers.get(key.customer_id) or await self._customer(found.record)
        if customer is None and found.record is None and not found.complete:
            raise LedgerUnavailable(
                "the ledger has lost entries, so it may have lost this customer, too"
            )
        if now is None or customer is None:
            return None
        return account_of(customer, now, revision, shard_of(account_id, self._shard_count))

    async def _customer(self, record: CustomerRecord | None) -> Customer | None:
        """A customer in the ledger. Raises LedgerUnavailable where this gate lacks what it needs."""
        if record is None or record.status == "deleted":
            return None
        customer_id, plan = record.customer_id, self._plans.get(record.plan or "")
        if plan is None:
            log.error("customer_not_served", customer_id=customer_id, plan=record.plan)
            raise LedgerUnavailable(
                f"the plan {record.plan} of {customer_id} is not configured here"
            )
        tables: Mapping[str, PriceTable] = {}
        if record.prices:
            tables = await self._directory.price_tables(record.prices.values())
        missing = [version for version in record.prices.values() if version not in tables]
        if missing:
            log.error("customer_not_served", customer_id=customer_id, price_version=missing[0])
            raise LedgerUnavailable(
                f"the ledger has no price {missing[0]}, which {customer_id} pays"
            )
        prices = {model: tables[version] for model, version in record.prices.items()}
        return customer_of_record(record, plan, shard_of(customer_id, self._shard_count), prices)

    def _known_revision(self, account_id: str) -> int:
        """0 when none is known."""
        revision = self._revisions.get(account_id)
        return self._read_revisions.get(account_id) or 0 if revision is None else revision

    def note_revision(self, account_id: str, revision: int) -> None:
        """An account has this revision in the ledger, at least."""
        # Of two that read at once, the older answer may come last.
        known = self._known_revision(account_id)
        if revision <= known:
            return
        if account_id in self._customers:
            self._revisions[account_id] = revision
            self.revision += 1
        else:
            self._read_revisions.put(account_id, revision)
            if known:  # of an account that is new here, nothing has been concluded yet
                self.revision += 1

    def _account(self, key: Key) -> Account:
        customer_id = key.customer_id
        return account_of(self._customers[customer_id], key, self._known_revision(customer_id))

    async def _vouched_for(self, exchange: Exchange, reserves: bool) -> Account | None:
        """The account that a trusted peer names; None when it names none."""
        trusted = self._trusted
        assert trusted is not None
        customer_id = told(exchange, trusted.customer_header)
        if customer_id is None:
            return None
        key_id = told(exchange, trusted.key_header) or "trusted"
        project_id = told(exchange, trusted.project_header) or None
        whose = (customer_id, key_id, project_id)
        configured = customer_id in self._customers
        account: Account | None = self._vouched.get(whose)
        if account is not None and self.is_current(account) and (reserves or configured):
            return account
        key = Key(key_id=key_id, customer_id=customer_id, project_id=project_id)
        account = self._account(key) if configured else await self._look_up_vouched(key)
        self._vouched.put(whose, account)
        return account

    async def _look_up_vouched(self, key: Key) -> Account:
        """The account of a customer in the ledger. Raises Refused(bad_key)."""
        name, now = f"customer:{key.customer_id}", time.monotonic()
        if (self._unknown.get(name) or 0.0) <= now:
            account = await self._read(key, "")
            if account is not None:
                return account
            self._unknown.put(name, now + UNKNOWN_TTL_S)
        raise Refused("bad_key", _UNKNOWN_CUSTOMER)
