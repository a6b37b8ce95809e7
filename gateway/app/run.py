"""The supervisor with the real parts: what `creditgate serve` and `creditgate dev` run."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from gateway.app.ledger_server import DECLARED, EmbeddedServer, RemoteServer, Where
from gateway.app.parts import ConfigRefused, Ledger, Parts, Plan
from gateway.app.roles import CannotServe, Role
from gateway.app.shards import ShardWatch
from gateway.app.supervisor import Running, Supervisor
from gateway.app.sync import sync_accounts
from gateway.ledger.accounts import AccountStore, OtherLedger, PricesChanged, RedisRunner
from gateway.ledger.connect import Endpoint
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.operations import Ledger as Wallets
from gateway.ledger.outbox import Outbox
from gateway.settings import Settings, SettingsError, load_settings
from gateway.telemetry.logs import Style, configure_logs

_RELOADED: Final = {"listen": {"drain_grace_ms", "max_body_bytes"}}
"""Of the sections that are fixed while the gate runs, the settings that are not."""
_FIXED_SECTIONS: Final = ("listen", "admin", "redis", "store", "export")

LEDGER_FOLDER: Final = "ledger"
"""Where the embedded ledger lies in the data folder."""


def run_gate(
    config: Path,
    on_ready: Callable[[Settings, Running], Awaitable[None]],
    *,
    logs: Style | None = None,
) -> None:
    """Operate the gate that a configuration describes until it is told to stop.

    Raises CannotStart, ConfigRefused (whatever is wrong with the configuration).
    """
    configure_logs("supervisor", style=logs)
    settings = _load(config)
    supervisor = Supervisor(settings, parts_for(config, settings))

    async def ready(running: Running) -> None:
        await on_ready(settings, running)

    asyncio.run(supervisor.run(ready))


def parts_for(config: Path, settings: Settings) -> Parts:
    """What makes the gate of these settings."""
    token = settings.admin.token
    return Parts(
        data_dir=settings.data_dir,
        roles=(
            Role(
                "worker",
                "gateway.app.service:build_gate",
                count=settings.listen.workers,
                listens=True,
            ),
            Role(
                "exporter",
                "gateway.app.exporting:build_exporter",
                after=("worker",),
                orphan_grace_s=1.0,  # what it has not delivered, its successor will
            ),
        ),
        ledger=_ledger_server(settings),
        load=lambda: _load(config),
        plan=plan_of,
        sync=_sync,
        admin_token=token.get_secret_value() if token else None,
    )


def plan_of(settings: Settings) -> Plan:
    """How to operate by these settings."""
    fixed: dict[str, object] = {
        "data_dir": settings.data_dir,
        "signals.webhook": settings.signals.webhook,
    }
    for section in _FIXED_SECTIONS:
        for name, value in getattr(settings, section):
            if name not in _RELOADED.get(section, ()):
                fixed[f"{section}.{name}"] = value
    return Plan(
        host=settings.listen.host,
        port=settings.listen.port,
        admin_host=settings.admin.host,
        admin_port=settings.admin.port,
        grace_s=settings.listen.drain_grace_ms / 1000,
        files=settings.files,
        fixed=fixed,
        digest=settings.digest,
    )


def _load(config: Path) -> Settings:
    try:
        return load_settings(config)
    except SettingsError as error:
        raise ConfigRefused([str(problem) for problem in error.problems]) from error


def _ledger_server(settings: Settings) -> Ledger:
    redis = settings.redis
    url = redis.connection_url()
    where = Where(redis.namespace, redis.shards, settings.events_path)
    if url is None:
        return EmbeddedServer(settings.data_dir / LEDGER_FOLDER, where)
    return RemoteServer(url, DECLARED[settings.redis.durability], where)


async def _sync(settings: Settings, ledger_url: str) -> None:
    """Bring the accounts into the ledger. Raises CannotServe."""
    endpoint = Endpoint.from_url(ledger_url)
    namespace, shard_count = settings.redis.namespace, settings.redis.shards
    client = endpoint.client(name="creditgate-accounts")
    store = AccountStore(client, namespace=namespace, shard_count=shard_count)
    ledger = Wallets(
        RedisRunner(client),
        namespace=namespace,
        shard_count=shard_count,
    )
    outbox = Outbox(client, shard_count, namespace=namespace)
    try:
        await store.create()
        await ShardWatch(ledger, outbox, settings.events_path, speaks=False).look()
        await sync_accounts(settings, ledger, store)
    except (OtherLedger, PricesChanged) as error:
        raise CannotServe(str(error)) from error
    except LedgerUnavailable as error:
        raise CannotServe(f"the ledger does not take the accounts: {error}") from error
    finally:
        await client.aclose()
