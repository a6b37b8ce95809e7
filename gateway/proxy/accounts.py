"""Who is asking: from an API key, or from the header of a gateway that has authenticated already.

Keys are known by their SHA-256 (or HMAC-SHA-256 with a pepper) alone. Those of the configuration
are in memory; those made by `creditgate key create` are looked up in the ledger's directory and
cached. A revoked key or a changed account shows as `stale_account` at the next reserve (the
script compares `account_rev`), and `refresh` reads the customer anew.
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Protocol

from gateway.domain.limits import Limit
from gateway.domain.reservation import Account, Key
from gateway.proxy.http import Exchange
from gateway.proxy.refused import Refused

MAX_KEY_CHARS = 512
UNKNOWN_KEY_TTL_S = 2.0
MAX_UNKNOWN_KEYS = 10_000
MAX_VOUCHED = 10_000
MAX_ID_CHARS = 64


@dataclass(frozen=True, slots=True)
class Customer:
    """What the configuration says of one customer, before any key of theirs."""

    customer_id: str
    shard: int
    limits: tuple[Limit, ...]
    models: frozenset[str] | None
    livemode: bool
    tags: Mapping[str, str]


class KeyDirectory(Protocol):
    """The ledger's directory of keys, and the revisions of accounts."""

    async def find_key(self, digest: str) -> Key | None:
        """The key with this hash, None when unknown or revoked. Raises LedgerUnavailable."""
        ...

    async def account_rev(self, customer_id: str) -> int | None:
        """The account's present revision. Raises LedgerUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class TrustedHeader:
    """A header that names the customer, believed from these networks alone."""

    customer_header: str
    key_header: str | None
    project_header: str | None
    networks: tuple[IPv4Network | IPv6Network, ...]

    def trusts(self, remote: str) -> bool:
        """Whether the peer lies in a trusted network."""
        try:
            address = ip_address(remote)
        except ValueError:
            return False
        return any(address in network for network in self.networks)


def key_digest(pepper: bytes) -> Callable[[str], str]:
    """How a key is hashed here: plain SHA-256, or HMAC-SHA-256 where there is a pepper."""
    if pepper:
        return lambda key: hmac.new(pepper, key.encode(), hashlib.sha256).hexdigest()
    return lambda key: hashlib.sha256(key.encode()).hexdigest()


def account_of(customer: Customer, key: Key, account_rev: int) -> Account:
    """Whom a request with this key is charged to: the customer, narrowed down by the key."""
    models = customer.models if key.models is None else key.models
    if customer.models is not None and key.models is not None:
        models = customer.models & key.models
    return Account(
        customer_id=key.customer_id,
        key_id=key.key_id,
        project_id=key.project_id,
        shard=customer.shard,
        account_rev=account_rev,
        limits=customer.limits + key.limits,
        models=models,
        livemode=customer.livemode,
        tags={**customer.tags, **key.tags},
    )


class Accounts:
    """Resolves requests to accounts."""

    def __init__(
        self,
        customers: Mapping[str, Customer],
        keys: Mapping[str, Key],
        revisions: Mapping[str, int],
        directory: KeyDirectory,
        *,
        pepper: bytes = b"",
        trusted: TrustedHeader | None = None,
    ) -> None:
        """keys: by digest. revisions: account_rev by customer, as the ledger has them now."""
        self._customers = customers
        self._configured = keys
        self._revisions = dict(revisions)
        self._directory = directory
        self._digest = key_digest(pepper)
        self._trusted = trusted
        self._accounts: dict[str, Account] = {
            digest: self._account(key)
            for digest, key in keys.items()
            if key.customer_id in customers
        }
        self._unknown: dict[str, float] = {}
        self._vouched: dict[tuple[str, str, str | None], Account] = {}

    async def authenticate(self, exchange: Exchange) -> Account:
        """The account of a request. Raises Refused(bad_key), LedgerUnavailable."""
        if self._trusted is not None and self._trusted.trusts(exchange.remote):
            customer_id = exchange.header(self._trusted.customer_header)
            if customer_id is not None:
                return self._vouched_for(exchange, customer_id)
        digest = self._digest(credential(exchange))
        account = self._accounts.get(digest)
        if account is None:
            account = await self._look_up(digest)
        if account is None:
            raise Refused("bad_key", "This API key is not known here. Check it, or create one.")
        return account

    async def refresh(self, account: Account, exchange: Exchange) -> Account:
        """Read the customer and the key anew after `stale_account`. Raises Refused(bad_key)."""
        customer_id = account.customer_id
        revision = await self._directory.account_rev(customer_id)
        if revision is None:
            raise Refused("bad_key", "This API key has no account.", reason="unknown_account")
        self._revisions[customer_id] = revision
        self._accounts = {
            digest: replace(known, account_rev=revision)
            if known.customer_id == customer_id
            else known
            for digest, known in self._accounts.items()
            if known.customer_id != customer_id or digest in self._configured
        }
        return await self.authenticate(exchange)

    async def _look_up(self, digest: str) -> Account | None:
        now = time.monotonic()
        if self._unknown.get(digest, 0.0) > now:
            return None
        key = await self._directory.find_key(digest)
        if key is None or key.customer_id not in self._customers:
            if len(self._unknown) >= MAX_UNKNOWN_KEYS:
                self._unknown.clear()
            self._unknown[digest] = now + UNKNOWN_KEY_TTL_S
            return None
        if key.customer_id not in self._revisions:
            self._revisions[key.customer_id] = (
                await self._directory.account_rev(key.customer_id) or 0
            )
        account = self._accounts[digest] = self._account(key)
        return account

    def _account(self, key: Key) -> Account:
        customer_id = key.customer_id
        return account_of(self._customers[customer_id], key, self._revisions.get(customer_id, 0))

    def _vouched_for(self, exchange: Exchange, customer_id: str) -> Account:
        trusted = self._trusted
        assert trusted is not None
        if customer_id not in self._customers:
            raise Refused(
                "bad_key", "The customer that the gateway in front named is not known here."
            )
        key_id = (trusted.key_header and exchange.header(trusted.key_header)) or "trusted"
        project_id = (trusted.project_header and exchange.header(trusted.project_header)) or None
        for name in (key_id, project_id or ""):
            if len(name) > MAX_ID_CHARS or not name.isascii() or not name.isprintable():
                raise Refused(
                    "bad_key", "The key or project that the gateway in front named is bad."
                )
        account = self._vouched.get((customer_id, key_id, project_id))
        if account is None or account.account_rev != self._revisions.get(customer_id, 0):
            if len(self._vouched) >= MAX_VOUCHED:
                self._vouched.clear()
            account = self._account(
                Key(key_id=key_id, customer_id=customer_id, project_id=project_id)
            )
            self._vouched[customer_id, key_id, project_id] = account
        return account


def credential(exchange: Exchange) -> str:
    """The one API key that a request shows. Raises Refused(bad_key) for none, several, malformed."""
    shown = [
        *exchange.header_values("authorization"),
        *exchange.header_values("x-api-key"),
        *exchange.header_values("x-goog-api-key"),
    ]
    if not shown:
        raise Refused(
            "bad_key", "No API key. Send it as `Authorization: Bearer KEY` or as `x-api-key`."
        )
    if len(shown) > 1:
        raise Refused("bad_key", "More than one API key was sent. Send one.")
    key = shown[0]
    if exchange.header("authorization") is not None:
        scheme, _, key = key.partition(" ")
        if scheme.lower() != "bearer":
            raise Refused("bad_key", "Send the API key as `Authorization: Bearer KEY`.")
    key = key.strip()
    if not 0 < len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable():
        raise Refused("bad_key", "This is not an API key.")
    return key
