"""Who is asking: from an API key, or from the header of a gateway that has authenticated already.

Keys are known by their SHA-256 (or HMAC-SHA-256 with a pepper) alone. Those of the configuration
are in memory; those made by `creditgate key create` are looked up in the ledger's directory and
cached.

Invariants: an account is valid while its revision is the ledger's. A revoked key or a changed account
raises the revision, so the next reserve answers `stale_account` and `refresh` reads both again.
Hence the revision is always read before the key: a key that is revoked in between is stale.
Where no reserve follows, nothing would notice: there a key of the directory is not cached.
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, Protocol, TypeVar
from urllib.parse import unquote_plus

from gateway.domain.limits import Limit, replace_limits
from gateway.domain.reservation import Account, Key
from gateway.flow.refusals import Refused
from gateway.http.interface import Exchange
from gateway.ledger.client.errors import LedgerUnavailable

MAX_KEY_CHARS: Final = 512
UNKNOWN_KEY_TTL_S: Final = 2.0
MAX_UNKNOWN_KEYS: Final = 10_000
MAX_LOOKED_UP: Final = 100_000
MAX_VOUCHED: Final = 10_000
MAX_ID_CHARS: Final = 64
_PEERS_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class Customer:
    """What the configuration says of one customer, before any key of theirs."""

    customer_id: str
    shard: int
    limits: tuple[Limit, ...]
    models: frozenset[str] | None
    livemode: bool
    tags: Mapping[str, str]
    projects: Mapping[str, tuple[Limit, ...]] = field(default_factory=dict)
    """Limits of some projects alone."""


@dataclass(frozen=True, slots=True)
class KnownAccounts:
    """What is known of accounts before the first request."""

    customers: Mapping[str, Customer]
    """By customer id."""
    keys: Mapping[str, Key]
    """The configured keys, by digest."""
    revisions: Mapping[str, int]
    """account_rev by customer id, as the ledger has them now."""


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

    @property
    def names(self) -> tuple[str, ...]:
        """The headers that it reads."""
        named = (self.customer_header, self.key_header, self.project_header)
        return tuple(name for name in named if name)

    def trusts(self, remote: str) -> bool:
        """Whether the peer lies in a trusted network."""
        try:
            address = ip_address(remote)
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped  # an IPv4 peer of a socket that takes both
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
    own = (*customer.projects.get(key.project_id or "", ()), *key.limits)
    return Account(
        customer_id=key.customer_id,
        key_id=key.key_id,
        project_id=key.project_id,
        shard=customer.shard,
        account_rev=account_rev,
        limits=replace_limits(customer.limits, own),
        models=models,
        livemode=customer.livemode,
        tags={**customer.tags, **key.tags},
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
        self._accounts = {digest: self._account(key) for digest, key in known.keys.items()}
        self._looked_up: dict[str, Account] = {}
        self._unknown: dict[str, float] = {}
        self._vouched: dict[tuple[str, str, str | None], Account] = {}

    async def authenticate(
        self, exchange: Exchange, *, reserves: bool = True, query_key: bool = False
    ) -> Account:
        """The account of a request. Raises Refused(bad_key), LedgerUnavailable.

        reserves:  a reservation follows, which notices an account that is not valid any more
        query_key: the key may be the query's `key`
        """
        if self.trusts_headers and self.trusts(exchange.remote):
            vouched = self._vouched_for(exchange)
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
        return await self._look_up(digest)

    def is_current(self, account: Account) -> bool:
        """Whether this is the latest revision of the account that is known here."""
        return account.account_rev == self._revisions.get(account.customer_id, 0)

    async def refresh(
        self, account: Account, exchange: Exchange, *, query_key: bool = False
    ) -> Account:
        """Reread the customer and the key after `stale_account`. Raises Refused(bad_key), and
        LedgerUnavailable where the ledger has lost the account."""
        customer_id = account.customer_id
        known = self._revisions.get(customer_id, 0)  # higher when another request has asked since
        if known == account.account_rev and await self._read_revision(customer_id) is None:
            # Configured, so the key is right: it is the ledger that has lost the wallet.
            raise LedgerUnavailable(f"the ledger has no wallet of the customer {customer_id}")
        return await self.authenticate(exchange, query_key=query_key)

    def digest_of(self, key: str) -> str:
        """The hash by which a key is known here."""
        return self._digest(key)

    async def of_key(self, digest: str) -> Account:
        """The account of a key by its hash, as it is now. Raises Refused(bad_key), LedgerUnavailable."""
        configured = self._configured.get(digest)
        return self._account(configured) if configured else await self._look_up(digest)

    async def of_customer(self, customer_id: str) -> Account | None:
        """The account of a customer without a key; None for one that is not known."""
        if customer_id not in self._customers:
            return None
        return self._account(Key(key_id="", customer_id=customer_id))

    async def _look_up(self, digest: str) -> Account:
        """The account of a key that only the directory can know. Raises Refused(bad_key)."""
        now = time.monotonic()
        if self._unknown.get(digest, 0.0) <= now:
            account = await self._find(digest)
            if account is not None:
                _remember(self._looked_up, digest, account, MAX_LOOKED_UP)
                return account
            self._looked_up.pop(digest, None)
            _remember(self._unknown, digest, now + UNKNOWN_KEY_TTL_S, MAX_UNKNOWN_KEYS)
        raise Refused("bad_key", "This API key is not known here. Check it, or create one.")

    async def _find(self, digest: str) -> Account | None:
        key = await self._directory.find_key(digest)
        customer = self._customers.get(key.customer_id) if key else None
        if key is None or customer is None:
            return None
        revision = self._revisions.get(key.customer_id)
        if revision is None:
            revision = await self._read_revision(key.customer_id) or 0
        key = await self._directory.find_key(digest)  # again, now that the revision is known
        return None if key is None else account_of(customer, key, revision)

    async def _read_revision(self, customer_id: str) -> int | None:
        revision = await self._directory.account_rev(customer_id)
        # Of two that read at once, the older answer may come last.
        if revision is not None and revision > self._revisions.get(customer_id, -1):
            self._revisions[customer_id] = revision
            self.revision += 1
        return revision

    def _account(self, key: Key) -> Account:
        customer_id = key.customer_id
        return account_of(self._customers[customer_id], key, self._revisions.get(customer_id, 0))

    def _vouched_for(self, exchange: Exchange) -> Account | None:
        """The account that a trusted peer names; None when it names none."""
        trusted = self._trusted
        assert trusted is not None
        customer_id = _told(exchange, trusted.customer_header)
        if customer_id is None:
            return None
        if customer_id not in self._customers:
            raise Refused(
                "bad_key", "The customer that the gateway in front named is not known here."
            )
        key_id = _told(exchange, trusted.key_header) or "trusted"
        project_id = _told(exchange, trusted.project_header) or None
        account = self._vouched.get((customer_id, key_id, project_id))
        if account is None or not self.is_current(account):
            account = self._account(
                Key(key_id=key_id, customer_id=customer_id, project_id=project_id)
            )
            _remember(self._vouched, (customer_id, key_id, project_id), account, MAX_VOUCHED)
        return account


K = TypeVar("K")
V = TypeVar("V")


def _remember(cache: dict[K, V], name: K, value: V, most: int) -> None:
    """Bounded: a full cache is emptied, which costs one look-up per key."""
    if len(cache) >= most:
        cache.clear()
    cache[name] = value


def _told(exchange: Exchange, header: str | None) -> str | None:
    """What the gateway in front says in a header. Raises Refused(bad_key): two values may mean
    that it added its own to the caller's."""
    values = exchange.header_values(header) if header else ()
    if not values:
        return None
    value = values[0]
    if (
        len(values) > 1
        or len(value) > MAX_ID_CHARS
        or not (value.isascii() and value.isprintable())
    ):
        raise Refused("bad_key", "What the gateway in front said of this caller is not an id.")
    return value


KEY_FIELDS: Final = ("x-api-key", "api-key", "x-goog-api-key")
"""Header fields that hold a key and nothing else: Anthropic's, Azure's, Gemini's."""


def credential(exchange: Exchange, *, query_key: bool = False) -> str:
    """The one API key that a request shows. Raises Refused(bad_key) for none, several, malformed.

    SDKs and the gateways in front of them send one key in several places, and leave others empty:
    the same key is one, and what is empty is not there.

    query_key: the key may be the query's `key`
    """
    shown = [_bearer(value) for value in exchange.header_values("authorization")]
    for name in KEY_FIELDS:
        shown += exchange.header_values(name)
    if query_key and exchange.query:
        shown += [
            unquote_plus(each[4:]) for each in exchange.query.split("&") if each.startswith("key=")
        ]
    keys = {key for value in shown if (key := value.strip())}
    if not keys:
        raise Refused(
            "bad_key", "No API key. Send it as `Authorization: Bearer KEY` or as `x-api-key`."
        )
    if len(keys) > 1:
        raise Refused("bad_key", "Two different API keys were sent. Send one.")
    key = keys.pop()
    if len(key) > MAX_KEY_CHARS or not key.isascii() or not key.isprintable():
        raise Refused("bad_key", "This is not an API key.")
    return key


def _bearer(value: str) -> str:
    """The key in an Authorization field, empty where it is. Raises Refused(bad_key)."""
    scheme, _, key = value.strip().partition(" ")
    if scheme and scheme.lower() != "bearer":
        raise Refused("bad_key", "Send the API key as `Authorization: Bearer KEY`.")
    return key
