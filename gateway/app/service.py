"""What a worker runs: the flow with everything it stands on, built from the settings.

This is the composition of the data path; the flow itself is `gateway/proxy/handler.py`.
"""

import asyncio
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from gateway.app.balance import BalanceReader
from gateway.app.pricing import PriceFeed
from gateway.app.roles import CannotServe, Resources
from gateway.dialects import DIALECTS
from gateway.dialects.base import ReadOptions
from gateway.domain.pricebook import Draft
from gateway.ledger.accounts import AccountStore
from gateway.ledger.connect import Endpoint
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.journal import SettleJournal, orphans, replay_orphan
from gateway.ledger.operations import Ledger, Seen
from gateway.ledger.pricebook import UnknownBook, UnreadablePrice
from gateway.ledger.refusals import RefusalLog
from gateway.ledger.resp import CoalescingRunner
from gateway.proxy.accounts import Accounts
from gateway.proxy.catalog import Catalog, LocalAnswer, Model, Route
from gateway.proxy.handler import Flow
from gateway.proxy.local import answer_credits, answer_health, answer_model, answer_models
from gateway.proxy.observe import Observer
from gateway.proxy.running import Settlements, keep_alive
from gateway.proxy.server import HttpServer, ServerLimits
from gateway.proxy.sweeper import Sweeper
from gateway.proxy.upstream import UpstreamPool, UpstreamTimeouts, upstream_tls
from gateway.settings import Settings
from gateway.settings.compiling import (
    compile_customers,
    compile_keys,
    compile_models,
    compile_routes,
    compile_trusted_header,
    price_models,
)
from gateway.settings.upstreams import UpstreamSection
from gateway.telemetry.logs import RequestLog, failure
from gateway.telemetry.metrics import Snapshot
from gateway.telemetry.names import GateMetrics

log = structlog.get_logger("gate")

REPLAY_EVERY_S = 1.0
"""How often what waits in the journals is offered to the ledger again."""


@dataclass(slots=True)
class Compiled:
    """What one configuration becomes; prepared whole, then taken over in one step.

    models: at the configuration's own prices; the catalog has those of the book in force
    """

    settings: Settings
    models: Mapping[str, Model]
    draft: Draft
    catalog: Catalog
    accounts: Accounts
    pools: Mapping[str, tuple[UpstreamSection, UpstreamPool]]


class GateService:
    """A worker's service (`roles.Service`)."""

    def __init__(self, settings: Settings, resources: Resources) -> None:
        endpoint = Endpoint.from_url(resources.ledger_url)
        redis = settings.redis
        self._process = resources.process
        self._started_s = int(time.time())
        self._admission = CoalescingRunner(endpoint, name=f"{resources.process}-admission")
        self._settlement = CoalescingRunner(endpoint, name=f"{resources.process}-settlement")
        self._client = endpoint.client(name=resources.process)
        seen = Seen()
        self._ledger = Ledger(
            self._admission,
            namespace=redis.namespace,
            shard_count=redis.shards,
            max_backlog=settings.export.max_backlog_events,
            seen=seen,
        )
        settling = Ledger(
            self._settlement, namespace=redis.namespace, shard_count=redis.shards, seen=seen
        )
        self._store = AccountStore(
            self._client, namespace=redis.namespace, shard_count=redis.shards
        )
        self._journals = Path(resources.data_dir) / "journal"
        self._journal = SettleJournal(self._journals)
        self._metrics = GateMetrics()
        self._refusals = RefusalLog(self._client, namespace=redis.namespace)
        self._lines = RequestLog(resources.process, self._metrics.log_lines_dropped)
        self._observer = Observer(self._metrics, self._lines, self._refusals)
        self._settlements = Settlements(settling, self._journal, self._observer.settled)
        self._sweeper = Sweeper(settling, self._store)
        self._prices = PriceFeed(self._store.price_books())
        self._balance = BalanceReader(self._store, settings.events_path)
        self._prepared: Compiled | None = None
        self._current: Compiled
        self._pools: Mapping[str, tuple[UpstreamSection, UpstreamPool]] = {}
        self._flow: Flow
        self._server: HttpServer
        self._tasks: list[asyncio.Task[None]] = []
        self._retired: set[asyncio.Task[None]] = set()
        self._draining: asyncio.Event | None = None

    async def build(self, settings: Settings) -> None:
        """Connect and compile. Raises CannotServe."""
        try:
            await self._admission.start()
            await self._settlement.start()
        except LedgerUnavailable as error:
            raise CannotServe(str(error)) from error
        try:
            await self._prices.ask()
        except (LedgerUnavailable, UnknownBook, UnreadablePrice) as error:
            raise CannotServe(str(error)) from error
        self._current = await self._compile(settings)
        self._pools = self._current.pools
        self._flow = Flow(
            self._current.catalog,
            self._current.accounts,
            self._ledger,
            self._settlements,
            self._observer,
        )

    async def start(self, sock: socket.socket | None) -> None:
        """Serve on the socket."""
        assert sock is not None, "a gate listens"
        listen = self._current.settings.listen
        limits = ServerLimits(
            idle_s=listen.keepalive_ms / 1000,
            head_s=listen.header_timeout_ms / 1000,
            body_s=listen.body_timeout_ms / 1000,
            write_s=listen.write_timeout_ms / 1000,
            connections_per_address=listen.max_connections_per_address,
        )
        self._server = HttpServer(self._flow, limits)
        work = [
            keep_alive(self._settlements),
            self._refusals.run(),
            self._replay_journals(),
            self._prices.run(self._reprice),
        ]
        if self._process.endswith("-0"):  # one sweeper a gate is enough
            work.append(self._sweeper.run())
        self._tasks = [asyncio.create_task(_forever(each)) for each in work]
        await self._server.start(sock)

    async def prepare(self, settings: Settings) -> None:
        """Compile the new configuration beside the present one. Raises CannotServe."""
        self.abort()
        self._prepared = await self._compile(settings)

    def commit(self) -> None:
        """Serve new requests by what was prepared."""
        prepared, self._prepared = self._prepared, None
        assert prepared is not None, "commit follows prepare"
        before, self._current, self._pools = self._current, prepared, prepared.pools
        self._reprice()
        self._flow.accounts = prepared.accounts
        self._prices.ask_now()
        self._retire(before, prepared)

    def abort(self) -> None:
        """Throw away what was prepared."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            self._retire(prepared, self._current)

    async def drain(self, grace_s: float) -> None:
        """Stop accepting, let running requests end within the grace, settle all, close."""
        if self._draining is not None:
            await self._server.close()
            await self._draining.wait()
            return
        self._draining = asyncio.Event()
        self._flow.draining = True
        await self._server.drain(grace_s)
        await self._server.close()
        await self._settlements.drain(grace_s=4.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(LedgerUnavailable):
            await self._settlements.replay_journal()
        await self._journal.close()
        for _, pool in self._current.pools.values():
            await pool.close()
        await asyncio.gather(*self._retired, return_exceptions=True)
        await self._lines.close()
        await self._admission.close()
        await self._settlement.close()
        await self._client.aclose()
        self._draining.set()

    async def settled(self) -> None:
        """Wait until every ending so far has been taken by the ledger or the journal."""
        await self._settlements.drain(grace_s=10.0)

    def snapshot(self) -> Snapshot:
        """The metrics so far."""
        self._metrics.requests_in_flight.set(self._server.busy_count)
        self._metrics.settle_journal_entries.set(self._journal.waiting_records)
        return self._metrics.registry.snapshot()

    # Compiling

    async def _compile(self, settings: Settings) -> Compiled:
        pools = {name: (up, self._pool(name, up)) for name, up in settings.upstreams.items()}
        upstreams = {name: pool for name, (_, pool) in pools.items()}
        routes = compile_routes(settings, upstreams, DIALECTS)
        models = compile_models(settings, upstreams)
        routes.update(self._local_routes(settings, list(models)))
        customers = compile_customers(settings)
        wallets = await self._store.wallets(list(customers))
        accounts = Accounts(
            customers,
            compile_keys(settings),
            {customer_id: wallet.account_rev for customer_id, wallet in wallets.items()},
            self._store,
            pepper=settings.pepper(),
            trusted=compile_trusted_header(settings),
        )
        catalog = Catalog(
            routes=routes,
            models=models,
            fallback=DIALECTS["generic"],
            max_body_bytes=settings.listen.max_body_bytes,
        )
        draft = settings.price_draft()
        catalog = self._priced(catalog, settings, draft, models)
        return Compiled(settings, models, draft, catalog, accounts, pools)

    def _reprice(self) -> None:
        """Serve new requests at the prices of the book in force."""
        current = self._current
        current.catalog = self._priced(
            current.catalog, current.settings, current.draft, current.models
        )
        self._flow.catalog = current.catalog

    def _priced(
        self, catalog: Catalog, settings: Settings, draft: Draft, models: Mapping[str, Model]
    ) -> Catalog:
        """The catalog at the prices of the book in force."""
        book, own = draft.under(self._prices.book), draft.tables()
        priced, overrides = price_models(settings, models, book, {**own, **self._prices.tables})
        return replace(catalog, models=priced, overrides=overrides)

    def _pool(self, name: str, upstream: UpstreamSection) -> UpstreamPool:
        known = self._pools.get(name)
        if known is not None and known[0] == upstream:
            return known[1]  # its connections stay warm
        times, tls = upstream.timeouts, upstream.tls
        return UpstreamPool(
            name,
            str(upstream.base_url),
            timeouts=UpstreamTimeouts(
                connect_ms=times.connect_ms,
                head_ms=times.head_ms,
                between_ms=times.between_bytes_ms,
                total_ms=times.total_ms,
            ),
            tls=upstream_tls(
                ca_file=tls.ca_file,
                verify=tls.verify,
                client_certificate=tls.client_cert,
                client_key=tls.client_key,
            ),
            server_name=tls.server_name,
            connections_most=upstream.max_connections,
        )

    def _local_routes(self, settings: Settings, models: list[str]) -> dict[str, Route]:
        def route(path: str, answer: LocalAnswer, *, public: bool = False) -> Route:
            return Route(
                path=path,
                methods=frozenset({"GET", "HEAD"}),
                dialect=DIALECTS["generic"],
                reading=ReadOptions(),
                policy=settings.knobs().flow(),
                local=answer,
                public=public,
            )

        routes = [
            route("/healthz", answer_health(lambda: None), public=True),
            route("/readyz", answer_health(self._why_not_ready), public=True),
            route("/v1/credits", answer_credits(self._balance.read)),
            route("/v1/models", answer_models(models, self._started_s)),
            *(route(f"/v1/models/{name}", answer_model(name, self._started_s)) for name in models),
        ]
        return {each.path: each for each in routes}

    def _why_not_ready(self) -> str | None:
        if self._draining is not None:
            return "draining"
        return None if self._admission.connected else "ledger_unreachable"

    def _retire(self, old: Compiled, new: Compiled) -> None:
        """Close the pools that only `old` uses, once their running requests have ended."""
        kept = {id(pool) for _, pool in new.pools.values()}
        for _, pool in old.pools.values():
            if id(pool) not in kept:
                task = asyncio.create_task(_close_when_quiet(pool))
                self._retired.add(task)
                task.add_done_callback(self._retired.discard)

    async def _replay_journals(self) -> None:
        """Deliver what could not be: this worker's own journal, and those of dead workers."""
        while True:
            await asyncio.sleep(REPLAY_EVERY_S)
            if not self._settlement.connected:
                continue
            if self._journal.waiting_records:
                await self._settlements.replay_journal()
            for path in orphans(self._journals):
                done = await replay_orphan(path, self._settlements.replay_one)
                log.warning("journal_replayed", delivered=done.delivered, rejected=done.rejected)


async def build_gate(settings: Settings, resources: Resources) -> GateService:
    """The worker's builder: a gate that is connected, not yet listening. Raises CannotServe."""
    service = GateService(settings, resources)
    await service.build(settings)
    return service


async def _forever(work: object) -> None:
    """Background work that a fault must not end silently: it is logged, the process goes on."""
    try:
        await work  # type: ignore[misc]
    except asyncio.CancelledError:
        raise
    except Exception as error:
        log.error("background_failed", **failure(error))
        raise


async def _close_when_quiet(pool: UpstreamPool) -> None:
    while pool.open_count > pool.idle_count or pool.waiting_count:  # noqa: ASYNC110 - rare, and bounded by total_ms
        await asyncio.sleep(0.2)
    await pool.close()
