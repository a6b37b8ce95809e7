"""The local routes for key holders of a configuration."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.app.balance import BalanceReader
from gateway.app.key_holders.holder import HolderReader, ShownKey
from gateway.app.key_holders.links import open_signer
from gateway.app.key_holders.reading import StoreReads
from gateway.app.key_holders.requests import RequestReader, RequestRoute
from gateway.app.key_holders.usage import UsageReader, UsageRoute
from gateway.domain.pricing import Rate
from gateway.domain.stores import StoreAccess
from gateway.flow.authentication import Accounts
from gateway.flow.catalog import LocalAnswer
from gateway.ledger.accounts import AccountStore
from gateway.ledger.audit import Audit
from gateway.ledger.codec.stored_keys import StoredKey
from gateway.ledger.outbox import Outbox
from gateway.ledger.refusals import NotedRefusal, find_refusal_near
from gateway.operations.keys import PREFIX, TEST_PREFIX
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class LocalPath:
    """One route. public: it asks for no key, or for one in its own way"""

    path: str
    answer: LocalAnswer
    method: str = "GET"
    public: bool = False


@dataclass(frozen=True, slots=True)
class HolderRoutes:
    """Makes the routes.

    client:   connections to the ledger
    access:   to the required store
    known:    the accounts in force
    """

    client: Any
    accounts: AccountStore
    access: StoreAccess
    balance: BalanceReader
    known: Callable[[], Accounts]
    data_dir: Path

    def paths(self, settings: Settings) -> Sequence[LocalPath]:
        """The routes of a configuration; none unless it enables them."""
        section = settings.key_holders
        if not section.enabled:
            return ()
        namespace, shards = settings.redis.namespace, settings.redis.shards
        outbox = Outbox(self.client, shards, namespace=namespace)
        reads = StoreReads(self.access)
        usage = UsageReader(reads, outbox)

        async def find_refusal(request_id: str, at_ms: int) -> NotedRefusal | None:
            return await find_refusal_near(self.client, request_id, at_ms, namespace=namespace)

        async def find_rates(version: str) -> dict[str, Rate] | None:
            found = await self.accounts.prices.find(version)
            return found[0] if found else None

        audit = Audit(self.client, self.accounts.names)
        requests = RequestReader(reads, audit, outbox, find_refusal, find_rates)
        found = [
            LocalPath("/v1/usage", UsageRoute(usage)),
            LocalPath("/v1/requests/{request_id}", RequestRoute(requests)),
        ]
        if section.page:
            found += self._page(settings, usage, reads)
        return found

    def _page(
        self, settings: Settings, usage: UsageReader, reads: StoreReads
    ) -> Sequence[LocalPath]:
        # Only here: workers without the page do without the template engine.
        from gateway.app.key_holders.account import AccountPage, AccountTerms

        section = settings.key_holders
        secure = (section.public_url or "").startswith("https:")
        terms = AccountTerms(section.session_minutes, secure, section.top_up_url)

        async def list_keys(customer_id: str) -> list[ShownKey]:
            return await self._list_keys(settings, customer_id)

        reader = HolderReader(self.balance.read, usage, reads, list_keys)
        page = AccountPage(self.known, reader, open_signer(settings, self.data_dir), terms)
        return [
            LocalPath("/account", page.show, public=True),
            LocalPath("/account", page.take_key, "POST", public=True),
            LocalPath("/account/enter", page.take_link, public=True),
            LocalPath("/account/sign-out", page.sign_out, "POST", public=True),
        ]

    async def _list_keys(self, settings: Settings, customer_id: str) -> list[ShownKey]:
        """Keys of the configuration, then those of the ledger. Raises LedgerUnavailable."""
        section = settings.customers.get(customer_id)
        configured = section.keys if section is not None else ()
        stored = await self.accounts.keys.entries(customer_id)
        used = await self.accounts.key_uses.read(key.key_id for key in stored)
        return [
            *(ShownKey(key.key_id, project_id=key.project) for key in configured),
            *(_shown(key, used.get(key.key_id)) for key in stored),
        ]


def _shown(key: StoredKey, last_used_ms: int | None) -> ShownKey:
    terms = key.terms
    prefix = TEST_PREFIX if terms.test else PREFIX
    expired = terms.expires_at_ms is not None and terms.expires_at_ms <= time.time_ns() // 1_000_000
    revoked = key.revoked_at_ms is not None
    return ShownKey(
        key.key_id,
        f"{prefix}…{terms.last_four}" if terms.last_four else "",
        terms.name,
        key.project_id,
        key.created_at_ms,
        last_used_ms,
        terms.expires_at_ms,
        "revoked" if revoked else "expired" if expired else "",
    )
