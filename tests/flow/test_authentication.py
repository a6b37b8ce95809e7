"""Who is asking: keys of the configuration and of the ledger's directory, trusted headers; what
becomes of each when the account changes."""

import hashlib
import time
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import Any

import pytest
import redis.asyncio

from gateway.domain.pricing import PriceTable
from gateway.domain.reservation import Account, Key
from gateway.flow import authentication as module
from gateway.flow.account_sources import KnownAccounts
from gateway.flow.authentication import Accounts
from gateway.flow.credentials import TrustedHeader, key_digest
from gateway.flow.customers import Customer
from gateway.flow.refusals import Refused
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.keys import AccountRead
from tests.support.bank import Bank

from .asked import Asked

TRUSTED = TrustedHeader("x-customer", "x-key", "x-project", (ip_network("10.0.0.0/8"),))


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def customer(customer_id: str = "acme", **changes: Any) -> Customer:
    given: dict[str, Any] = {"shard": 1, "limits": (), "models": None, "livemode": True}
    return Customer(customer_id, **{**given, "tags": {}, **changes})


class Directory:
    """The real directory, which counts what it is asked and can be interrupted."""

    def __init__(self, store: AccountStore | None = None) -> None:
        self._store = store
        self.asked: list[str] = []
        self.after_find: Any = None

    async def find_key(self, digest: str) -> Key | None:
        self.asked.append("key")
        found = await self._store.keys.find(digest) if self._store else None
        if self.after_find is not None:
            then, self.after_find = self.after_find, None
            await then()
        return found

    async def account_rev(self, account_id: str) -> int | None:
        self.asked.append("rev")
        return await self._store.wallets.account_rev(account_id) if self._store else None

    async def read_account(self, customer_id: str, account_id: str, digest: str) -> AccountRead:
        self.asked.append("account")
        if self._store is None:
            return AccountRead(None, None, None)
        return await self._store.keys.read_account(customer_id, account_id, digest)

    async def price_tables(self, versions: Iterable[str]) -> Mapping[str, PriceTable]:
        self.asked.append("prices")
        return await self._store.books.tables(versions) if self._store else {}


def accounts(
    directory: Directory | None = None,
    *,
    keys: Mapping[str, Key] | None = None,
    customers: Mapping[str, Customer] | None = None,
    **more: Any,
) -> Accounts:
    return Accounts(
        KnownAccounts(
            customers or {"acme": customer()},
            keys or {sha256("sk-1"): Key("k1", "acme")},
            {"acme": 1},
        ),
        directory or Directory(),
        **more,
    )


async def refused(asking: Accounts, asked: Asked, **how: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        await asking.authenticate(asked, **how)
    assert caught.value.kind == "bad_key"
    return caught.value


# Keys of the configuration


@pytest.mark.parametrize(
    "asked",
    [
        Asked(key="sk-1"),
        Asked(("authorization", "bearer  sk-1 ")),
        Asked(("X-Api-Key", "sk-1")),
        Asked(("x-goog-api-key", "sk-1")),
    ],
)
async def test_a_configured_key_is_known_by_whatever_header_without_asking_the_ledger(
    asked: Asked,
) -> None:
    directory = Directory()
    account = await accounts(directory).authenticate(asked)
    assert (account.customer_id, account.key_id, account.account_rev) == ("acme", "k1", 1)
    assert directory.asked == []


@pytest.mark.parametrize(
    "asked",
    [
        Asked(),
        Asked(("authorization", "Basic sk-1")),
        Asked(("authorization", "sk-1")),
        Asked(("authorization", "Bearer ")),
        Asked(("authorization", "Bearer sk-1"), ("authorization", "Bearer sk-2")),
        Asked(("authorization", "Bearer sk-1"), ("x-api-key", "sk-2")),
        Asked(("api-key", "sk-1"), ("x-goog-api-key", "sk-2")),
        Asked(("authorization", "Basic x"), ("x-api-key", "sk-1")),
        Asked(("authorization", ""), ("x-api-key", " ")),
        Asked(key="s" * 513),
        Asked(key="sk-ü"),
        Asked(key="sk-\x00"),
        Asked(key="sk-2"),
        Asked(key=sha256("sk-1")),
    ],
)
async def test_anything_but_one_known_key_is_401_and_never_repeated(asked: Asked) -> None:
    said = await refused(accounts(), asked)
    for _, value in asked.headers():
        shown = value.removeprefix("Bearer").strip()
        assert not shown or shown not in said.message


@pytest.mark.parametrize(
    "asked",
    [
        Asked(("authorization", "Bearer sk-1"), ("authorization", "Bearer sk-1")),
        Asked(("authorization", "Bearer sk-1"), ("x-api-key", "sk-1"), ("api-key", "sk-1")),
        Asked(("authorization", "Bearer sk-1"), ("x-api-key", "")),
        Asked(("authorization", "Bearer "), ("x-api-key", "sk-1")),
        Asked(("authorization", ""), ("x-goog-api-key", "sk-1 ")),
        Asked(("api-key", "sk-1")),
    ],
)
async def test_the_same_key_in_several_places_is_one_and_an_empty_field_is_none(
    asked: Asked,
) -> None:
    assert (await accounts().authenticate(asked)).key_id == "k1"


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("key=sk-1", ()),
        ("alt=sse&key=sk%2D1", ()),
        ("key=", (("x-goog-api-key", "sk-1"),)),
        ("key=sk-1", (("x-goog-api-key", "sk-1"),)),
    ],
)
async def test_a_key_in_the_query_counts_where_the_dialect_has_it_there(
    query: str, headers: tuple[tuple[str, str], ...]
) -> None:
    asked = Asked(*headers)
    asked.query = query
    assert (await accounts().authenticate(asked, query_key=True)).key_id == "k1"
    asked.query += "&key=sk-2"
    with pytest.raises(Refused):
        await accounts().authenticate(asked, query_key=True)


async def test_elsewhere_a_key_in_the_query_is_none() -> None:
    asked = Asked()
    asked.query = "key=sk-1"
    await refused(accounts(), asked)


async def test_with_a_pepper_plain_hashes_are_worth_nothing() -> None:
    digest = key_digest(b"pepper")("sk-1")
    assert digest != sha256("sk-1")
    peppered = accounts(keys={digest: Key("k1", "acme")}, pepper=b"pepper")
    assert (await peppered.authenticate(Asked(key="sk-1"))).key_id == "k1"
    await refused(accounts(pepper=b"pepper"), Asked(key="sk-1"))


def test_a_key_narrows_down_what_its_customer_may_do() -> None:
    both = frozenset({"a", "b"})
    asking = {"acme": customer(models=both, tags={"team": "x", "plan": "p"})}
    key = Key("k", "acme", "p1", models=frozenset({"b", "c"}), tags={"team": "y"})
    known = accounts(customers=asking, keys={sha256("sk-1"): key})
    account = known._accounts[sha256("sk-1")]
    assert account.models == frozenset({"b"})
    assert (account.project_id, account.tags) == ("p1", {"team": "y", "plan": "p"})


# Keys of the directory, and changes


@pytest.fixture
async def bank(valkey: redis.asyncio.Redis) -> Bank:
    opened = Bank(valkey)
    await opened.open("acme")
    await opened.accounts.keys.add(sha256("sk-made"), "k-made", "acme")
    return opened


MADE = Asked(key="sk-made")


async def test_a_made_key_is_looked_up_once_and_then_known(bank: Bank) -> None:
    directory = Directory(bank.accounts)
    asking = accounts(directory)
    first = await asking.authenticate(MADE)
    assert first.key_id == "k-made"
    seen = len(directory.asked)
    assert await asking.authenticate(MADE) is first
    assert len(directory.asked) == seen


async def revoke(bank: Bank) -> None:
    assert await bank.accounts.keys.revoke(bank.ledger.wallets, "k-made") is not None


async def test_a_revoked_key_is_stale_at_the_next_reserve_and_401_after(bank: Bank) -> None:
    asking = accounts(Directory(bank.accounts))
    account = await asking.authenticate(MADE)
    await revoke(bank)
    assert await bank.accounts.wallets.account_rev("acme") != account.account_rev
    with pytest.raises(Refused, match="not known"):
        await asking.refresh(account, MADE)
    await refused(asking, MADE)


async def test_where_no_reserve_follows_a_revoked_key_is_401_at_once(bank: Bank) -> None:
    asking = accounts(Directory(bank.accounts))
    await asking.authenticate(MADE, reserves=False)
    await revoke(bank)
    await refused(asking, MADE, reserves=False)


@pytest.mark.parametrize("known", [True, False])
async def test_a_key_that_is_revoked_while_it_is_looked_up_does_not_pass_for_current(
    bank: Bank, known: bool
) -> None:
    directory = Directory(bank.accounts)
    asking = accounts(directory)
    if not known:
        asking._revisions.clear()

    async def revoke_and_refresh() -> None:
        await revoke(bank)
        # Another request of the customer refreshes.
        asking.note_revision("acme", await bank.accounts.wallets.account_rev("acme") or 0)

    directory.after_find = revoke_and_refresh
    try:
        account = await asking.authenticate(MADE)
    except Refused:
        return
    assert account.account_rev != await bank.accounts.wallets.account_rev("acme"), (
        "its reserve is stale"
    )


async def test_a_change_of_the_account_reaches_its_configured_keys_too(bank: Bank) -> None:
    directory = Directory(bank.accounts)
    asking = accounts(directory)
    account = await asking.authenticate(Asked(key="sk-1"))
    await bank.operator.bump("acme")
    fresh = await asking.refresh(account, Asked(key="sk-1"))
    assert fresh.account_rev == account.account_rev + 1
    assert await asking.authenticate(Asked(key="sk-1")) is fresh
    assert directory.asked == ["rev"]


async def test_of_many_stale_requests_those_that_come_late_do_not_ask_again(bank: Bank) -> None:
    directory = Directory(bank.accounts)
    asking = accounts(directory)
    stale = await asking.authenticate(Asked(key="sk-1"))
    await bank.operator.bump("acme")
    await asking.refresh(stale, Asked(key="sk-1"))
    fresh = await asking.refresh(stale, Asked(key="sk-1"))
    assert fresh.account_rev == 2
    assert directory.asked == ["rev"]


async def test_a_customer_whose_wallet_the_ledger_has_lost_keeps_a_valid_key() -> None:
    asking = accounts(Directory())
    account = Account("acme", "k1", 1, 1)
    with pytest.raises(LedgerUnavailable, match="no wallet of the customer acme"):
        await asking.refresh(account, Asked(key="sk-1"))


async def test_a_made_key_of_a_customer_that_is_configured_no_more_is_401(bank: Bank) -> None:
    await refused(
        accounts(
            Directory(bank.accounts),
            customers={"other": customer("other")},
            keys={"": Key("k", "other")},
        ),
        MADE,
    )


async def test_a_stranger_costs_one_look_up_in_a_while_and_no_memory_without_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_UNKNOWN", 10)
    directory = Directory()
    asking = accounts(directory)
    for _ in range(5):
        await refused(asking, Asked(key="sk-stranger"))
    assert directory.asked == ["key"]
    for number in range(100):
        await refused(asking, Asked(key=f"sk-{number}-stranger"))
    assert len(asking._unknown) <= 10
    now = time.monotonic()
    assert all(until <= now + module.UNKNOWN_TTL_S for until in asking._unknown._kept.values())


async def test_a_key_that_is_made_soon_after_it_was_tried_works(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNKNOWN_TTL_S", 0.0)
    await bank.accounts.creation.record()
    asking = accounts(Directory(bank.accounts))
    await refused(asking, Asked(key="sk-soon"))
    await bank.accounts.keys.add(sha256("sk-soon"), "k-soon", "acme")
    assert (await asking.authenticate(Asked(key="sk-soon"))).key_id == "k-soon"


# Trusted headers


def vouched(*more: tuple[str, str], remote: str = "10.1.2.3") -> Asked:
    return Asked(("X-Customer", "acme"), *more, remote=remote)


@pytest.mark.parametrize("remote", ["10.1.2.3", "::ffff:10.1.2.3"])
async def test_a_listed_network_may_name_the_customer(remote: str) -> None:
    asking = accounts(trusted=TRUSTED)
    named = (("x-key", "k9"), ("x-project", "p9"))
    account = await asking.authenticate(vouched(*named, remote=remote))
    assert (account.customer_id, account.key_id, account.project_id) == ("acme", "k9", "p9")
    assert (await asking.authenticate(vouched())).key_id == "trusted"


@pytest.mark.parametrize("remote", ["11.0.0.1", "::1", "", "not an address", "::ffff:11.0.0.1"])
async def test_from_elsewhere_the_header_counts_for_nothing(remote: str) -> None:
    asking = accounts(trusted=TRUSTED)
    await refused(asking, vouched(remote=remote))
    by_key = Asked(("x-customer", "other"), key="sk-1", remote=remote)
    assert (await asking.authenticate(by_key)).customer_id == "acme"


@pytest.mark.parametrize(
    "more",
    [
        (("x-customer", "acme"),),
        (("x-key", "a"), ("X-Key", "b")),
        (("x-key", "k" * 65),),
        (("x-project", "p\x00"),),
        (("x-project", "ü"),),
    ],
)
async def test_a_gateway_that_adds_its_header_to_the_caller_s_is_not_believed(
    more: tuple[tuple[str, str], ...],
) -> None:
    await refused(accounts(trusted=TRUSTED), vouched(*more))


async def test_an_unknown_customer_is_401_and_no_header_means_a_key() -> None:
    asking = accounts(trusted=TRUSTED)
    await refused(asking, Asked(("x-customer", "nobody"), remote="10.0.0.1"))
    assert (await asking.authenticate(Asked(key="sk-1", remote="10.0.0.1"))).key_id == "k1"


async def test_a_vouched_account_follows_its_customer_s_changes_and_is_bounded(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_VOUCHED", 10)
    asking = accounts(Directory(bank.accounts), trusted=TRUSTED)
    account = await asking.authenticate(vouched())
    assert await asking.authenticate(vouched()) is account
    await bank.operator.bump("acme")
    assert (await asking.refresh(account, vouched())).account_rev == 2
    for number in range(100):
        await asking.authenticate(vouched(("x-key", f"k{number}")))
    assert len(asking._vouched) <= 10
