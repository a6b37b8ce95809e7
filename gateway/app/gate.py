"""A worker's service: the flow with everything it uses, complete and connected.

`build_gate` makes one; the path of a request is `gateway/flow/handler.py`.
"""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.app.background import Background, FollowChanges, JournalReplay, Work
from gateway.app.balance import BalanceReader
from gateway.app.compiled import Compiler, Configuration
from gateway.app.drain import Drain
from gateway.app.failover import Failover, keep_settlements
from gateway.app.key_holders.routes import HolderRoutes
from gateway.app.ledger_access import LedgerAccess, open_ledger
from gateway.app.ledger_health import LedgerHealth
from gateway.app.local_routes import LocalRoutes
from gateway.app.modes import ModeFeed
from gateway.app.plan_terms import PlanTermsWalk
from gateway.app.pools import PoolRegistry
from gateway.app.pricing import PriceFeed
from gateway.app.records import Records, open_records
from gateway.app.roles import CannotServe, Resources
from gateway.app.stores import store_access
from gateway.domain.money import NANO_PER_CREDIT
from gateway.domain.reservation import Settled
from gateway.flow.admission import Admission
from gateway.flow.catalog import Catalog
from gateway.flow.expected_output import ExpectedOutput
from gateway.flow.handler import Flow, FlowServices
from gateway.flow.idempotency import Repeats
from gateway.flow.kept_responses import AnswerStore, KeptAnswer
from gateway.flow.observer import Observer
from gateway.flow.reservation.delivery import Delivery
from gateway.flow.reservation.growing import GrowthServices
from gateway.flow.reservation.live import LiveReservations
from gateway.flow.reservation.reservation import Reservation, ReservationServices
from gateway.flow.retries import Retries
from gateway.flow.shadow import ShadowAdmission
from gateway.flow.shard_outages import ShardOutages
from gateway.flow.sweeper import Sweeper
from gateway.http.server.limits import ServerLimits, client_bound, raise_open_files
from gateway.http.server.server import HttpServer
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.modes import ANNOUNCED
from gateway.ledger.pricebook import UnknownBook, UnreadablePrice
from gateway.ledger.wallets import Wallets
from gateway.settings import Settings
from gateway.telemetry.metrics import Snapshot


@dataclass(frozen=True, slots=True)
class Gate:
    """A worker's service (`roles.Service`). Every part is final; each keeps its state to itself."""

    flow: Flow
    server: HttpServer
    configuration: Configuration
    live: LiveReservations
    delivery: Delivery
    retries: Retries
    expected: ExpectedOutput
    ledger: LedgerAccess
    pools: PoolRegistry
    records: Records
    observer: Observer
    background: Background
    failover: Failover
    stopping: Drain

    async def start(self, sock: socket.socket | None) -> None:
        """Serve on the socket."""
        assert sock is not None, "a gate listens"
        self.background.start()
        await self.server.start(sock)

    async def prepare(self, settings: Settings) -> None:
        """Compile new settings while the present ones serve. Raises CannotServe."""
        await self.configuration.prepare(settings)

    def commit(self) -> None:
        """Serve new requests by what was prepared, and new connections by its certificate."""
        self.configuration.commit()
        if self.server.tls is not None:  # turning it on or off takes a restart
            self.server.tls = self.configuration.current.tls or self.server.tls
        self.server.forget_heads()

    def abort(self) -> None:
        """Drop what was prepared."""
        self.configuration.abort()

    async def drain(self, grace_s: float) -> None:
        """Stop accepting, let running requests end within the grace, settle all, close."""
        await self.stopping.run(grace_s)

    def snapshot(self) -> Snapshot:
        """The metrics so far."""
        metrics = self.records.metrics
        metrics.requests_in_flight.set(self.server.busy_count)
        metrics.holds_open.set(len(self.live))
        held_nano = sum(reservation.held_nano for reservation in self.live)
        metrics.held_credits.set(held_nano / NANO_PER_CREDIT)
        pools = self.configuration.current.pools
        self.observer.breaker_states({name: pool.breaker for name, (_, pool) in pools.items()})
        metrics.settle_journal_entries.set(self.records.journal.waiting_records)
        self.failover.measure(metrics)
        return metrics.registry.snapshot()


async def build_gate(settings: Settings, resources: Resources) -> Gate:
    """Connect and compile; the result is complete and does not listen yet. Raises CannotServe."""
    ledger = await open_ledger(settings, resources)
    try:
        return await _build(settings, resources, ledger)
    except (LedgerUnavailable, UnknownBook, UnreadablePrice) as error:
        await ledger.close()
        raise CannotServe(str(error)) from error
    except BaseException:
        await ledger.close()
        raise


async def _build(settings: Settings, resources: Resources, ledger: LedgerAccess) -> Gate:
    prices, modes = PriceFeed(ledger.accounts.books), ModeFeed(ledger.accounts)
    pools, health = PoolRegistry(), LedgerHealth(ledger)
    access = store_access(settings)
    balance = BalanceReader(ledger.accounts, access, lambda: ledger.shards.store_has_all)
    holders = HolderRoutes(
        ledger.client,
        ledger.accounts,
        access,
        balance,
        lambda: flow.accounts,
        Path(resources.data_dir),
    )

    # Local routes are part of what the flow serves and report on it: they ask when they are called.
    def catalog() -> Catalog:
        return flow.catalog

    def not_serving() -> str | None:
        if flow.draining:
            return "draining"
        return "crowded" if server.crowded else None

    local = LocalRoutes(balance, health, catalog, not_serving, int(time.time()), holders)
    compiler = Compiler(ledger, prices, modes, pools, local)
    await prices.ask()
    await modes.ask()
    compiled = await compiler.compile(settings, present={})

    # From here on nothing can be refused, so that a failed start leaves no journal behind.
    records = open_records(settings, resources)
    tracing = records.tracing
    observer = tracing.observer(
        records.metrics, records.lines, ledger.refusals, ledger.accounts.key_uses
    )
    repeats = Repeats(ledger.accounts.holds.reservation, balance.charge_of, records.answers)
    live, expected = LiveReservations(), ExpectedOutput()
    delivery = Delivery(ledger.settling, records.journal, records.metrics.endings_set_aside)
    retries = Retries(ledger.unanswered.post)
    outages = ShardOutages(records.metrics.shard_shut_seconds, resources.process)
    admission = Admission(ledger.reserving, delivery, outages)
    kept = keep_settlements(ledger, delivery, access, records.metrics)
    failover = Failover(kept, outages, ledger, health)
    failover.watch()
    shadow = ShadowAdmission(
        ledger.reserving, admission, ledger.shadow_wallets.open, observer.would_deny
    )
    reservations = ReservationServices(
        admission.reserve,
        shadow.reserve,
        delivery,
        GrowthServices(delivery.ledger, ledger.accounts.keys.is_killed, delivery.spawn),
        expected,
        retries,
        live,
        _settled(observer, records.answers, delivery),
        modes.note,
    )
    services = FlowServices(admission, reservations, observer, repeats)
    flow = tracing.flow(compiled.catalog, compiled.accounts, services)
    configuration = Configuration(compiler, compiled, flow, records.answers)
    server = HttpServer(flow, _server_limits(settings))
    server.tls = compiled.tls
    replay = JournalReplay(records.journal, records.journals, delivery, ledger.settlement)

    async def keep_prices() -> None:
        await prices.run(configuration.reprice)

    async def keep_modes() -> None:
        await modes.run(configuration.change_modes)

    async def keep_revisions() -> None:
        await modes.run_revisions(lambda name, rev: flow.accounts.note_revision(name, rev))

    async def take_unanswered() -> None:
        await ledger.unanswered.read(retries.take)

    def changed(name: str | None) -> None:
        if name is None or name == ANNOUNCED:
            modes.ask_now()
        if name != ANNOUNCED:
            live.look_at(name)
            if name is not None:
                flow.accounts.forget(name)

    work: list[Work] = [
        live.keep_alive,
        records.metrics.registry.keep_folding,
        ledger.refusals.run,
        ledger.accounts.key_uses.run,
        replay.run,
        keep_prices,
        keep_modes,
        keep_revisions,
        FollowChanges(ledger.changes, changed).run,
        ledger.unanswered.write,
        take_unanswered,
        ledger.shards.run,
        kept.run,
        health.watch,
        ledger.servers.follow_switches,
    ]
    if tracing.spans is not None:
        work.append(tracing.spans.run)
    if resources.process.endswith("-0"):  # one sweeper per gate is enough
        sweeper = Sweeper(ledger.settling, ledger.accounts)
        plans = PlanTermsWalk(
            ledger.accounts,
            Wallets(ledger.settling.shards),
            lambda: configuration.current.settings,
        )
        work += [sweeper.run, sweeper.run_wallets, plans.run, records.answers.run]
    background = Background(work)
    return Gate(
        flow=flow,
        server=server,
        configuration=configuration,
        live=live,
        delivery=delivery,
        retries=retries,
        expected=expected,
        ledger=ledger,
        pools=pools,
        records=records,
        observer=observer,
        background=background,
        failover=failover,
        stopping=Drain(
            flow=flow,
            server=server,
            live=live,
            delivery=delivery,
            background=background,
            replay=replay,
            kept=kept,
            pools=pools,
            records=records,
            ledger=ledger,
        ),
    )


def _settled(
    observer: Observer, answers: AnswerStore, delivery: Delivery
) -> Callable[[Reservation, Settled], None]:
    def settled(reservation: Reservation, outcome: Settled) -> None:
        """Count what the ledger has taken, and keep the answer for repeats where that is wanted."""
        observer.settled(reservation, outcome)
        if reservation.kept is not None:
            status, media_type, body = reservation.kept
            kept = KeptAnswer(status, media_type, outcome.charged_nano, body)
            delivery.spawn(answers.keep(reservation.hold.reservation_id, kept))

    return settled


def _server_limits(settings: Settings) -> ServerLimits:
    listen = settings.listen
    upstreams = sum(upstream.max_connections for upstream in settings.upstreams.values())
    buffered = max(listen.max_buffered_bytes, 2 * listen.max_body_bytes)  # any one body fits
    return ServerLimits(
        idle_s=listen.keepalive_ms / 1000,
        head_s=listen.header_timeout_ms / 1000,
        body_s=listen.body_timeout_ms / 1000,
        write_s=listen.write_timeout_ms / 1000,
        connections_most=client_bound(raise_open_files(), upstreams),
        connections_per_address=listen.max_connections_per_address,
        buffer_bytes=buffered,
        buffer_share_bytes=buffered // 2,
    )
