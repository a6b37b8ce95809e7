"""One configuration compiled for serving, and which one is in force.

Everything that can fail happens in `compile`; a commit swaps references and cannot fail.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.app.ledger_access import LedgerAccess
from gateway.app.local_routes import SPEAKERS, LocalRoutes
from gateway.app.modes import ModeFeed
from gateway.app.pools import PoolRegistry, Pools
from gateway.app.pricing import PriceFeed
from gateway.app.roles import CannotServe
from gateway.dialects import DIALECTS
from gateway.domain.pricebook import Draft
from gateway.flow.account_sources import KnownAccounts
from gateway.flow.authentication import Accounts
from gateway.flow.catalog import Catalog, Model
from gateway.flow.handler import Flow
from gateway.flow.kept_responses import AnswerStore
from gateway.http.interface import Upstream
from gateway.http.tls import BadCertificate
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.settings import Settings
from gateway.settings.compiling import (
    compile_cors,
    compile_customers,
    compile_keys,
    compile_models,
    compile_plans,
    compile_routes,
    price_models,
)
from gateway.settings.forwarding import compile_trusted_header


@dataclass(frozen=True, slots=True)
class Compiled:
    """What one configuration becomes.

    models:  at the configuration's own prices
    catalog: the same at the prices of the book that was in force when it was compiled
    tls:     what new connections shake hands with; None for plain HTTP
    """

    settings: Settings
    models: Mapping[str, Model]
    draft: Draft
    catalog: Catalog
    accounts: Accounts
    pools: Pools
    tls: ssl.SSLContext | None

    def priced(self, prices: PriceFeed) -> Catalog:
        """The catalog at the prices of the book in force now."""
        return _priced(self.catalog, self.settings, self.draft, self.models, prices)


@dataclass(frozen=True, slots=True)
class Compiler:
    """Compiles configurations with what they share."""

    ledger: LedgerAccess
    prices: PriceFeed
    modes: ModeFeed
    registry: PoolRegistry
    local: LocalRoutes

    async def compile(self, settings: Settings, present: Pools) -> Compiled:
        """Compile; pools that do not change are taken from `present`.

        Raises CannotServe, LedgerUnavailable.
        """
        # Those of a node that is away are read at their first request.
        wallets, _ = await self.ledger.accounts.wallets.read_reached(settings.customers)
        revisions = {customer_id: wallet.account_rev for customer_id, wallet in wallets.items()}
        # In a thread: certificates and many customers take a while, and requests are being served.
        return await asyncio.to_thread(self._compile, settings, revisions, present)

    def _compile(
        self, settings: Settings, revisions: Mapping[str, int], present: Pools
    ) -> Compiled:
        pools = self.registry.pools(settings.upstreams, present)
        upstreams: dict[str, Upstream] = {name: pool for name, (_, pool) in pools.items()}
        routes = compile_routes(settings, upstreams, DIALECTS)
        models = compile_models(settings, upstreams)
        routes.update(self.local.routes(settings))
        accounts = Accounts(
            KnownAccounts(
                compile_customers(settings),
                compile_keys(settings),
                revisions,
                compile_plans(settings),
                settings.redis.shards,
            ),
            self.ledger.keys,
            pepper=settings.pepper(),
            trusted=compile_trusted_header(settings),
        )
        catalog = Catalog(
            routes=routes,
            models=models,
            fallback=DIALECTS["generic"],
            max_body_bytes=settings.listen.max_body_bytes,
            speakers=SPEAKERS,
            cors=compile_cors(settings),
            modes=self.modes.modes(settings),
        )
        draft = settings.price_draft()
        catalog = _priced(catalog, settings, draft, models, self.prices)
        return Compiled(settings, models, draft, catalog, accounts, pools, listening_tls(settings))


class Configuration:
    """The configuration in force; the only writer of what the flow serves by."""

    def __init__(
        self, compiler: Compiler, current: Compiled, flow: Flow, answers: AnswerStore
    ) -> None:
        self.current = current
        self._prepared: Compiled | None = None
        self._compiler = compiler
        self._flow = flow
        self._answers = answers

    async def prepare(self, settings: Settings) -> None:
        """Compile new settings while the present ones serve. Raises CannotServe."""
        self.abort()
        try:
            self._prepared = await self._compiler.compile(settings, self.current.pools)
        except LedgerUnavailable as error:
            raise CannotServe(str(error)) from error

    def commit(self) -> None:
        """Serve new requests by what was prepared, catalog and accounts in one step."""
        prepared, self._prepared = self._prepared, None
        assert prepared is not None, "commit follows prepare"
        self.current = prepared
        self._flow.accounts = prepared.accounts
        self.reprice()
        self._answers.max_bytes = prepared.settings.answers.max_bytes
        self._compiler.prices.ask_now()

    def abort(self) -> None:
        """Drop what was prepared."""
        self._prepared = None

    def reprice(self) -> None:
        """Serve new requests at the prices of the book in force."""
        modes = self._compiler.modes.modes(self.current.settings)
        self._flow.catalog = replace(self.current.priced(self._compiler.prices), modes=modes)

    def change_modes(self) -> None:
        """Serve new requests in the modes in force. Another catalog replaces the present one, by whose
        identity the flow knows that nothing of what it has concluded holds any more."""
        modes = self._compiler.modes.modes(self.current.settings)
        self._flow.catalog = replace(self._flow.catalog, modes=modes)


def listening_tls(settings: Settings) -> ssl.SSLContext | None:
    """The TLS context of the data port. Raises CannotServe."""
    tls = settings.listen.tls
    try:
        return tls.certificate().context() if tls else None
    except BadCertificate as error:  # it has changed since the settings were read
        raise CannotServe(f"listen.tls: {error}") from error


def _priced(
    catalog: Catalog,
    settings: Settings,
    draft: Draft,
    models: Mapping[str, Model],
    prices: PriceFeed,
) -> Catalog:
    """The catalog at the prices of the book in force."""
    book, configured = draft.under(prices.book), draft.tables()
    priced = price_models(settings, models, book, {**configured, **prices.tables})
    return replace(
        catalog,
        models=priced.models,
        overrides=priced.customers,
        plan_overrides=priced.plans,
    )
