"""The exporter as a child process: outbox → batches → the embedded store → webhooks."""

import asyncio
import os
import socket
import zlib
from dataclasses import asdict
from typing import Any

import structlog

from gateway.app.backend import TIMEOUT_S
from gateway.app.background import forever
from gateway.app.repairing import RepairTally, assemble_repairer
from gateway.app.roles import CannotServe, Resources
from gateway.app.stores import signal_schedule
from gateway.app.tasks import end_tasks
from gateway.domain.money import NANO_PER_CREDIT
from gateway.exporter.follower import Follower
from gateway.exporter.live import Sold
from gateway.exporter.main import Exporter
from gateway.exporter.pacing import PumpOptions
from gateway.exporter.sharing import Sharing
from gateway.exporter.signals import Courier, CourierTally
from gateway.exporter.sinks.registry import DriverMissing, build_sink, build_store
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.servers import HotRunner, locate, open_runner
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.exporters import Leases
from gateway.ledger.outbox import Outbox
from gateway.ledger.refusals import RefusalStream
from gateway.ledger.shards import Shards
from gateway.settings import Settings
from gateway.telemetry.logs import failure
from gateway.telemetry.metrics import Snapshot
from gateway.telemetry.names import exporter_snapshot

log = structlog.get_logger("exporter")


class ExportService:
    """The exporter's service (`roles.Service`). A reload changes nothing here: the settings
    that it uses cannot change while the gate runs."""

    def __init__(self, settings: Settings, resources: Resources) -> None:
        endpoint = locate(resources.ledger_url)
        self._servers = endpoint
        self._following: list[asyncio.Task[None]] = []
        self._client = endpoint.client(name=resources.process)
        self._runner = open_runner(endpoint, name=f"{resources.process}-ack")
        self._exporter = assemble_exporter(settings, self._client, self._runner, member(settings))
        self._repair_client = endpoint.client(
            name=f"{resources.process}-repair", timeout_s=TIMEOUT_S, max_connections=16
        )
        self._repairer = assemble_repairer(settings, self._repair_client, self._exporter)
        self._named_most = settings.export.metrics_top
        webhook = settings.signals.webhook
        self._courier = Courier(signal_schedule(settings), webhook.compiled()) if webhook else None
        self._delivering: asyncio.Task[None] | None = None
        self._repairing: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        self._closing = False

    async def connect(self) -> None:
        """Raises CannotServe."""
        try:
            await self._runner.start()
        except LedgerUnavailable as error:
            raise CannotServe(str(error)) from error

    async def start(self, sock: socket.socket | None) -> None:
        """Start exporting."""
        assert sock is None, "the exporter does not listen"
        self._following = [asyncio.create_task(forever(self._servers.follow_switches))]
        self._exporter.begin().add_done_callback(self._ended)
        if self._courier is not None:
            self._delivering = asyncio.create_task(self._courier.run())
            self._delivering.add_done_callback(self._ended)
        if self._repairer is not None:
            self._repairing = asyncio.create_task(self._repairer.run())
            self._repairing.add_done_callback(self._ended)

    async def prepare(self, settings: Settings) -> None:
        """Nothing to prepare."""

    def commit(self) -> None:
        """Nothing to take over."""

    def abort(self) -> None:
        """Nothing to throw away."""

    async def drain(self, grace_s: float) -> None:
        """Deliver what the outbox holds, within the grace, and close."""
        if self._closing:
            self._exporter.stop(grace_s)
            await self._closed.wait()
            return
        self._closing = True
        if self._courier is not None:
            self._courier.stop()  # what waits is in the store, for the next start
        if self._repairer is not None:
            self._repairer.stop()
        await self._exporter.drain(grace_s)
        if self._delivering is not None:
            await asyncio.wait([self._delivering])
        await end_tasks(self._following)
        if self._repairing is not None:
            await asyncio.wait([self._repairing], timeout=grace_s)
            await end_tasks(
                [self._repairing]
            )  # it may wait for the ledger; any step may be repeated
        await self._runner.close()
        await self._client.aclose()
        await self._repair_client.aclose()
        self._closed.set()

    def snapshot(self) -> Snapshot:
        """The exporter's figures."""
        tally = self._courier.tally if self._courier else CourierTally()
        repairs = self._repairer.tally if self._repairer else RepairTally()
        live, most = self._exporter.live, self._named_most
        figures = {**self._exporter.snapshot(), **asdict(tally)}
        figures["repair_seconds"] = repairs.seconds
        figures["wallets_shut"] = repairs.wallets_shut
        figures["charged_credits"] = live.charged_nano / NANO_PER_CREDIT
        sold = {
            "customer": [_shown(each) for each in live.customers(most)],
            "model": [_shown(each) for each in live.models(most)],
        }
        outcomes = {"repaired": repairs.repaired, "failed": repairs.failed}
        return exporter_snapshot(figures, self._exporter.sink_snapshots(), sold, outcomes)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A bug ended the pump, the courier or the repairs: die, so that the supervisor replaces and counts it."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("exporter_failed", **failure(error))
            os._exit(70)


def member(settings: Settings) -> str:
    """The name by which the ledger knows this gate's exporter: the same after a restart."""
    folder = zlib.crc32(str(settings.data_dir.absolute()).encode())
    return f"{socket.gethostname()}-{folder:08x}"


def assemble_exporter(
    settings: Settings, client: Any, runner: HotRunner | RedisRunner, member_name: str
) -> Exporter:
    """The exporter of these settings: the required store and a follower for each other sink.

    Raises DriverMissing.
    """
    keys, export = Keys(settings.redis.namespace, settings.redis.shards), settings.export
    options = PumpOptions(batch_limit=export.batch_events, linger_s=export.interval_ms / 1000)
    store = build_store(settings.required_store())
    followers = [
        Follower(name, build_sink(sink), store, options)
        for name, sink in settings.optional_sinks().items()
    ]
    return Exporter(
        Outbox(client, keys.shard_count, namespace=keys.namespace),
        Shards(runner, keys),
        store,
        options=options,
        sharing=Sharing(
            Leases(runner, keys, member_name),
            export.required,
            followers,
            RefusalStream(client, namespace=keys.namespace),
            lambda: runner.server_changes,
        ),
    )


def _shown(sold: Sold) -> tuple[str, dict[str, float]]:
    """Figures of a customer or model as metrics have them: credits, not exact any more."""
    figures: dict[str, float] = {
        "requests": sold.requests,
        "charged_credits": sold.charged_nano / NANO_PER_CREDIT,
        "cost_credits": sold.cost_nano / NANO_PER_CREDIT,
        "margin_credits": sold.margin_nano / NANO_PER_CREDIT,
    }
    if sold.balance_nano is not None:
        figures["balance_credits"] = sold.balance_nano / NANO_PER_CREDIT
    return sold.name, figures


async def build_exporter(settings: Settings, resources: Resources) -> ExportService:
    """The exporter's builder. Raises CannotServe."""
    try:
        service = ExportService(settings, resources)
    except DriverMissing as error:
        raise CannotServe(str(error)) from error
    await service.connect()
    return service
