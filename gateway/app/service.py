"""What a worker runs: the flow with everything it stands on, built from the settings.

This is the composition of the data path; the flow itself is `gateway/flow/handler.py`.
"""

import asyncio
import hashlib
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from weakref import WeakSet

import structlog

from gateway.app.balance import BalanceReader
from gateway.app.pricing import PriceFeed
from gateway.app.roles import CannotServe, Resources
from gateway.app.shards import LOOK_EVERY_S, KeyDirectory, ShardWatch
from gateway.app.tasks import end_tasks
from gateway.app.upstreams import upstream_context
from gateway.dialects import DIALECTS
from gateway.dialects.base import ReadOptions
from gateway.dialects.models import GeminiModel
from gateway.domain.pricebook import Draft
from gateway.domain.reservation import Account, Settled
from gateway.flow.admission import Admission
from gateway.flow.authentication import Accounts
from gateway.flow.blanking import BlankedUpstream
from gateway.flow.catalog import Catalog, LocalAnswer, Model, Route
from gateway.flow.expected_output import ExpectedOutput
from gateway.flow.handler import Flow, FlowServices
from gateway.flow.idempotency import Repeats
from gateway.flow.kept_responses import AnswerStore, KeptAnswer
from gateway.flow.local_routes import (
    answer_credits,
    answer_gemini_model,
    answer_gemini_models,
    answer_health,
    answer_model,
    answer_models,
)
from gateway.flow.observer import Observer
from gateway.flow.reservation.delivery import Delivery
from gateway.flow.reservation.growth import GrowthServices
from gateway.flow.reservation.live import LiveReservations
from gateway.flow.reservation.reservation import Reservation, ReservationServices
from gateway.flow.retries import Retries
from gateway.flow.sweeper import Sweeper
from gateway.http.client.pool import UpstreamPool, UpstreamTimeouts
from gateway.http.interface import Upstream
from gateway.http.server.limits import ServerLimits, client_bound, raise_open_files
from gateway.http.server.server import HttpServer
from gateway.ledger.accounts import AccountStore
from gateway.ledger.changes import Changes
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.fitness import UNREACHABLE, Trouble, find_trouble, trouble_of
from gateway.ledger.client.runner import CoalescingRunner
from gateway.ledger.journal import JournalInUse, SettleJournal, orphans, replay_orphan
from gateway.ledger.operations import Ledger, OutboxWatermark
from gateway.ledger.outbox import Outbox
from gateway.ledger.pricebook import UnknownBook, UnreadablePrice
from gateway.ledger.refusals import RefusalLog
from gateway.ledger.unanswered import UnansweredLog
from gateway.settings import Settings
from gateway.settings.compiling import (
    compile_cors,
    compile_customers,
    compile_keys,
    compile_models,
    compile_routes,
    compile_trusted_header,
    price_models,
    upstream_secrets,
)
from gateway.settings.upstreams import UpstreamSection
from gateway.telemetry.logs import RequestLog, failure
from gateway.telemetry.metrics import Snapshot
from gateway.telemetry.names import GateMetrics

log = structlog.get_logger("gate")

REPLAY_EVERY_S: Final = 1.0
"""How often what waits in the journals is offered to the ledger again."""

RESTART_AFTER_S: Final = 1.0
"""How long background work that has failed rests before it is begun anew."""

ASK_TIMEOUT_S: Final = 1.0
"""For what a request asks of the ledger beside the hot path: keys, revisions, balances."""

# After the grace; together less than `worker.SETTLE_TIME_S`.
FRAME_S: Final = 0.5
"""For running answers to end with an error frame that reaches their clients."""
LEAVE_S: Final = 0.5
"""For handlers whose connection was cut to end by themselves, before they are cancelled."""
DELIVER_S: Final = 3.0
"""For their endings to reach the ledger or the journal."""
CLOSE_S: Final = 0.3
"""For a connection to the ledger to answer what is outstanding."""


@dataclass(frozen=True, slots=True)
class PoolKey:
    """What makes a pool another one: the section, and what its certificate files hold."""

    section: UpstreamSection
    certificates: bytes


SPEAKERS: Final = {
    "anthropic": DIALECTS["anthropic_messages"],
    "gemini": DIALECTS["gemini_generate"],
}
"""API → who refuses in its shape what no route takes."""

Pools = Mapping[str, tuple[PoolKey, UpstreamPool]]


@dataclass(slots=True)
class Compiled:
    """What one configuration becomes; prepared whole, then taken over in one step.

    A pool that a later configuration has no use for needs no end of its own: requests that have
    it finish on it, and its idle connections close after some seconds.

    models: at the configuration's own prices; the catalog has those of the book in force
    """

    settings: Settings
    models: Mapping[str, Model]
    draft: Draft
    catalog: Catalog
    accounts: Accounts
    pools: Pools


class GateService:
    """A worker's service (`roles.Service`)."""

    def __init__(self, settings: Settings, resources: Resources) -> None:
        endpoint = Endpoint.from_url(resources.ledger_url)
        redis = settings.redis
        self._process = resources.process
        self._moves = endpoint.moves
        self._trouble: Trouble | None = None
        self._started_s = int(time.time())
        self._admission = CoalescingRunner(endpoint, name=f"{resources.process}-admission")
        self._settlement = CoalescingRunner(endpoint, name=f"{resources.process}-settlement")
        self._client = endpoint.client(
            name=resources.process, timeout_s=ASK_TIMEOUT_S, pool_wait_s=ASK_TIMEOUT_S / 2
        )
        seen = OutboxWatermark()  # `build` has it learn what the store has
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
        self._shards = ShardWatch(
            self._ledger,
            Outbox(self._client, redis.shards, namespace=redis.namespace),
            settings.events_path,
            speaks=False,
        )
        self._directory = KeyDirectory(self._store, lambda: self._shards.closed)
        self._journals = Path(resources.data_dir) / "journal"
        self._journal = SettleJournal(self._journals)
        self._metrics = GateMetrics()
        self._refusals = RefusalLog(self._client, namespace=redis.namespace)
        self._telling = endpoint.client(name=f"{resources.process}-unanswered", max_connections=2)
        self._unanswered = UnansweredLog(self._telling, namespace=redis.namespace)
        self._retries = Retries(self._unanswered.post)
        self._lines = RequestLog(resources.process, self._metrics.log_lines_dropped)
        self._observer = Observer(self._metrics, self._lines, self._refusals)
        self._delivery = Delivery(settling, self._journal, self._metrics.endings_set_aside)
        self._live = LiveReservations()
        self._expected = ExpectedOutput()
        self._changes = Changes(self._client, namespace=redis.namespace)
        self._sweeper = Sweeper(settling, self._store)
        self._prices = PriceFeed(self._store.price_books())
        self._balance = BalanceReader(self._store, settings.events_path)
        self._answers = AnswerStore(
            Path(resources.data_dir) / "answers.db", settings.answers.max_bytes
        )
        self._repeats = Repeats(self._store.reservation, self._balance.charge_of, self._answers)
        self._prepared: Compiled | None = None
        self._current: Compiled
        self._pools: Pools = {}
        self._every_pool: WeakSet[UpstreamPool] = WeakSet()
        self._flow: Flow
        self._server: HttpServer
        self._tasks: list[asyncio.Task[None]] = []
        self._draining: asyncio.Event | None = None

    async def build(self, settings: Settings) -> None:
        """Connect and compile. Raises CannotServe."""
        try:
            await self._admission.start()
            await self._settlement.start()
            await self._shards.look()
            await self._prices.ask()
            self._current = await self._compile(settings)
        except (LedgerUnavailable, UnknownBook, UnreadablePrice) as error:
            raise CannotServe(str(error)) from error
        self._pools = self._current.pools
        admission = Admission(self._ledger, self._delivery)
        reservations = ReservationServices(
            admission.reserve,
            self._delivery,
            GrowthServices(self._delivery.ledger, self._store.key_killed, self._delivery.spawn),
            self._expected,
            self._retries,
            self._live,
            self._ended,
        )
        services = FlowServices(admission, reservations, self._observer, self._repeats)
        self._flow = Flow(self._current.catalog, self._current.accounts, services)

    async def start(self, sock: socket.socket | None) -> None:
        """Serve on the socket."""
        assert sock is not None, "a gate listens"
        listen = self._current.settings.listen
        limits = ServerLimits(
            idle_s=listen.keepalive_ms / 1000,
            head_s=listen.header_timeout_ms / 1000,
            body_s=listen.body_timeout_ms / 1000,
            write_s=listen.write_timeout_ms / 1000,
            connections_most=client_bound(raise_open_files(), self._upstream_connections()),
            connections_per_address=listen.max_connections_per_address,
        )
        self._server = HttpServer(self._flow, limits)
        work = [
            self._live.keep_alive,
            self._refusals.run,
            self._replay_journals,
            self._keep_prices,
            self._follow_changes,
            self._unanswered.write,
            self._take_unanswered,
            self._shards.run,
            self._watch_server,
        ]
        if self._process.endswith("-0"):  # one sweeper a gate is enough
            work += [self._sweeper.run, self._sweeper.run_wallets, self._answers.run]
        self._tasks = [asyncio.create_task(_forever(each)) for each in work]
        await self._server.start(sock)

    def _upstream_connections(self) -> int:
        upstreams = self._current.settings.upstreams.values()
        return sum(upstream.max_connections for upstream in upstreams)

    async def prepare(self, settings: Settings) -> None:
        """Compile the new configuration beside the present one. Raises CannotServe."""
        self.abort()
        try:
            self._prepared = await self._compile(settings)
        except LedgerUnavailable as error:
            raise CannotServe(str(error)) from error

    def commit(self) -> None:
        """Serve new requests by what was prepared."""
        prepared, self._prepared = self._prepared, None
        assert prepared is not None, "commit follows prepare"
        self._current, self._pools = prepared, prepared.pools
        self._reprice()
        self._flow.accounts = prepared.accounts
        self._answers.max_bytes = prepared.settings.answers.max_bytes
        self._prices.ask_now()

    def abort(self) -> None:
        """Throw away what was prepared."""
        self._prepared = None

    async def drain(self, grace_s: float) -> None:
        """Stop accepting, let running requests end within the grace, settle all, close."""
        if self._draining is not None:
            await self._end_running()
            await self._draining.wait()
            return
        self._draining = asyncio.Event()
        self._flow.draining = True
        await self._server.drain(grace_s)
        await self._end_running()
        await self._delivery.drain(DELIVER_S)
        await end_tasks(self._tasks)
        if self._settlement.connected and self._journal.waiting_records:
            await self._delivery.replay_journal()
        await self._journal.close()
        for pool in list(self._every_pool):
            await pool.close()
        await self._lines.close()
        await self._answers.close()
        await self._admission.close(CLOSE_S)
        await self._settlement.close(CLOSE_S)
        await self._client.aclose()
        await self._telling.aclose()
        self._draining.set()

    async def _end_running(self) -> None:
        """End what still runs after the grace: by an error frame, then by closing the connections.

        The gate ends these answers, not their clients: each run is marked before its connection is
        cut, so that no policy for clients who leave applies.
        """
        self._live.stop_running()
        await self._server.drain(FRAME_S)
        self._live.stop_running()  # what was being admitted meanwhile
        await self._server.close(LEAVE_S)

    def snapshot(self) -> Snapshot:
        """The metrics so far."""
        self._metrics.requests_in_flight.set(self._server.busy_count)
        self._metrics.holds_open.set(len(self._live))
        self._metrics.settle_journal_entries.set(self._journal.waiting_records)
        return self._metrics.registry.snapshot()

    def _ended(self, reservation: Reservation, settled: Settled) -> None:
        """The ledger has taken an ending: count it, and keep the answer for repeats if that is wanted."""
        self._observer.settled(reservation, settled)
        if reservation.kept is not None:
            status, media_type, body = reservation.kept
            kept = KeptAnswer(status, media_type, settled.charged_nano, body)
            self._delivery.spawn(self._answers.keep(reservation.hold.reservation_id, kept))

    # Compiling

    async def _compile(self, settings: Settings) -> Compiled:
        wallets = await self._store.wallets(list(settings.customers))
        revisions = {customer_id: wallet.account_rev for customer_id, wallet in wallets.items()}
        # In a thread: certificates and many customers take a while, and requests are served.
        return await asyncio.to_thread(self._compile_values, settings, revisions)

    def _compile_values(self, settings: Settings, revisions: Mapping[str, int]) -> Compiled:
        pools = {name: self._pool(name, up) for name, up in settings.upstreams.items()}
        upstreams = {
            name: _blanked(pool, settings.upstreams[name]) for name, (_, pool) in pools.items()
        }
        routes = compile_routes(settings, upstreams, DIALECTS)
        models = compile_models(settings, upstreams)
        routes.update(self._local_routes(settings))
        accounts = Accounts(
            compile_customers(settings),
            compile_keys(settings),
            revisions,
            self._directory,
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
        )
        draft = settings.price_draft()
        catalog = self._priced(catalog, settings, draft, models)
        return Compiled(settings, models, draft, catalog, accounts, pools)

    async def _take_unanswered(self) -> None:
        await self._unanswered.read(self._retries.take)

    async def _keep_prices(self) -> None:
        await self._prices.run(self._reprice)

    async def _follow_changes(self) -> None:
        """Hear of changed accounts at once, while the ledger can be heard."""
        while True:
            with suppress(LedgerUnavailable):
                await self._changes.follow(self._live.look_at, lambda: self._live.look_at(None))
            await asyncio.sleep(RESTART_AFTER_S)

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

    def _pool(self, name: str, upstream: UpstreamSection) -> tuple[PoolKey, UpstreamPool]:
        times, tls = upstream.timeouts, upstream.tls
        try:
            key = PoolKey(upstream, _contents(tls.ca_file, tls.client_cert, tls.client_key))
            known = self._pools.get(name)
            if known is not None and known[0] == key:
                return known  # its connections stay warm
        except OSError as error:
            raise CannotServe(
                f"upstreams.{name}.tls: the certificates cannot be read ({type(error).__name__})"
            ) from error
        pool = UpstreamPool(
            name,
            str(upstream.base_url),
            timeouts=UpstreamTimeouts(
                connect_ms=times.connect_ms,
                head_ms=times.head_ms,
                between_ms=times.between_bytes_ms,
                total_ms=times.total_ms,
            ),
            tls=upstream_context(name, upstream),
            server_name=tls.server_name,
            query=upstream.query_text,
            connections_most=upstream.max_connections,
        )
        self._every_pool.add(pool)
        return key, pool

    def _local_routes(self, settings: Settings) -> dict[str, Route]:
        models = list(settings.models)

        def route(
            path: str, answer: LocalAnswer, *, public: bool = False, api: str = "openai"
        ) -> Route:
            return Route(
                path=path,
                methods=frozenset({"GET", "HEAD"}),
                dialect=SPEAKERS.get(api, DIALECTS["generic"]),
                reading=ReadOptions(),
                policy=settings.knobs().flow(),
                local=answer,
                public=public,
            )

        facts = [
            GeminiModel(name, model.max_output_tokens, model.context_tokens)
            for name, model in settings.models.items()
        ]
        routes = [
            route("/healthz", answer_health(lambda: None), public=True),
            route(
                "/readyz", answer_health(self._why_not_ready, self._what_is_degraded), public=True
            ),
            route("/v1/credits", answer_credits(self._balance.read)),
            route("/v1/models", answer_models(models, self._started_s, self._tiers_of)),
            route("/v1beta/models", answer_gemini_models(facts), api="gemini"),
            *(
                route(f"/v1/models/{name}", answer_model(name, self._started_s, self._tiers_of))
                for name in models
            ),
            *(
                route(f"/v1beta/models/{name}", answer_gemini_model(each), api="gemini")
                for name, each in zip(models, facts, strict=True)
            ),
        ]
        return {each.path: each for each in routes}

    def _tiers_of(self, name: str, account: Account | None) -> tuple[str, ...]:
        """The service tiers of a model that have a price for an account now."""
        customer_id = account.customer_id if account is not None else ""
        model = self._flow.catalog.model_for(name, customer_id)
        return model.prices.service_tiers if model is not None else ()

    def _why_not_ready(self) -> str | None:
        if self._draining is not None:
            return "draining"
        if not self._admission.connected:
            return "ledger_unreachable"
        if self._trouble is not None:
            return self._trouble.word
        if self._admission.refusal is not None:
            return trouble_of(LedgerUnavailable("", code=self._admission.refusal)).word
        if self._server.crowded:
            return "crowded"
        closed = len(self._shards.closed)
        return "every_shard_frozen" if closed == self._ledger.keys.shard_count else None

    def _what_is_degraded(self) -> tuple[str, ...]:
        return tuple(f"shard_{shard}_frozen" for shard in sorted(self._shards.closed))

    async def _watch_server(self) -> None:
        """Look how the ledger's server is: find the primary after a failover also where nothing is
        written, and admit nothing on a server that may evict."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            known = self._moves.count  # what connects from now on has followed all moves so far
            trouble = await find_trouble(self._client)
            if trouble is not None and trouble.moved:
                self._moves.moved(known)
            barred = trouble is not None and trouble.barred
            self._admission.barred = trouble.sentence if trouble is not None and barred else None
            # Whether it can be reached the connection of the hot path knows better, and sooner.
            reached = trouble is not None and trouble.word != UNREACHABLE
            self._trouble = trouble if reached else None

    async def _replay_journals(self) -> None:
        """Deliver what could not be: this worker's own journal, and those of dead workers."""
        while True:
            await asyncio.sleep(REPLAY_EVERY_S)
            if not self._settlement.connected:
                continue
            if self._journal.waiting_records:
                await self._delivery.replay_journal()
            for path in await asyncio.to_thread(orphans, self._journals):
                # Every worker looks for them: another may have taken it, or be done with it.
                with suppress(JournalInUse, FileNotFoundError):
                    done = await replay_orphan(path, self._delivery.replay_one)
                    if done.delivered or done.rejected or done.damaged_bytes:
                        log.warning(
                            "journal_replayed",
                            delivered=done.delivered,
                            rejected=done.rejected,
                            damaged_bytes=done.damaged_bytes,
                        )


async def build_gate(settings: Settings, resources: Resources) -> GateService:
    """The worker's builder: a gate that is connected, not yet listening. Raises CannotServe."""
    service = GateService(settings, resources)
    await service.build(settings)
    return service


def _blanked(pool: UpstreamPool, section: UpstreamSection) -> Upstream:
    """The upstream, without its credential in what it answers."""
    secrets = upstream_secrets(section)
    return BlankedUpstream(pool, secrets) if secrets else pool


async def _forever(work: Callable[[], Awaitable[None]]) -> None:
    """Background work that nobody would miss at once: a fault is logged, and it begins anew."""
    while True:
        try:
            await work()
        except Exception as error:
            log.error("background_failed", **failure(error))
        await asyncio.sleep(RESTART_AFTER_S)


def _contents(*files: Path | None) -> bytes:
    """What these files hold, in one value. Raises OSError."""
    held = hashlib.sha256()
    for file in files:
        held.update(b"-" if file is None else hashlib.sha256(file.read_bytes()).digest())
    return held.digest()
